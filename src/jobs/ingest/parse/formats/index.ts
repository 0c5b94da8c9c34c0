/** The formats that are read. A new one is a file beside this and a line here. */
import type { Format } from '../format.ts';
import { ASCIIDOC } from './asciidoc.ts';
import { CODE, LOG } from './code.ts';
import { CSV } from './csv.ts';
import { DOCX } from './docx.ts';
import { HTML } from './html.ts';
import { JSON_LINES, JSON_TEXT } from './json.ts';
import { MARKDOWN, MDX } from './markdown.ts';
import { PDF } from './pdf.ts';
import { PLAIN_TEXT } from './plain.ts';
import { RST } from './rst.ts';

/** The first that fits is taken. */
export const FORMATS: readonly Format[] = [
  PDF,
  DOCX,
  HTML,
  MARKDOWN,
  MDX,
  RST,
  ASCIIDOC,
  CSV,
  JSON_TEXT,
  JSON_LINES,
  LOG,
  CODE,
  PLAIN_TEXT,
];
