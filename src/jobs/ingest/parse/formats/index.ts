/** The formats that are read. A new one is a file beside this and a line here. */
import type { Format } from '../format.ts';
import { HTML } from './html.ts';
import { MARKDOWN, MDX } from './markdown.ts';
import { PLAIN_TEXT } from './plain.ts';

/** The first that fits is taken. */
export const FORMATS: readonly Format[] = [MARKDOWN, MDX, HTML, PLAIN_TEXT];
