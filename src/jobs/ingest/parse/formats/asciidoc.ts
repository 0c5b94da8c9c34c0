/** AsciiDoc: headings, code, tables and text; attributes and comments go. */
import type { Parsed, TextFormat } from '../format.ts';
import { LineBlocks } from './line-blocks.ts';

const HEADING = /^(={1,6}|#{1,6})\s+(\S.*?)\s*$/;
const LIST = /^\s*(?:[-*•]{1,5}|\.{1,5}|\d{1,9}\.)\s+\S/;
/** Blocks between two lines of the same mark: listings, literals, and others whose content is text. */
const FENCE = /^(-{4,}|\.{4,}|`{3,}|\/{4,}|[|,:!]={3,})\s*$/;
const WRAPPER = /^(?:={4,}|\*{4,}|_{4,}|\+{4,}|--)\s*$/;
const ATTRIBUTE = /^:!?[\w-]+!?:(?:\s.*)?$/;
const BLOCK_ATTRIBUTES = /^\[[^\]]*\]\s*$/;

export const ASCIIDOC: TextFormat = {
  kind: 'asciidoc',
  from: 'text',
  extensions: ['.adoc', '.asciidoc', '.asc'],
  mediaTypes: ['text/asciidoc', 'text/x-asciidoc'],
  parse: parseAsciidoc,
};

function parseAsciidoc(text: string): Parsed {
  const out = new LineBlocks(text);
  let language = '';
  let at = 0;
  while (at < out.lines.length) {
    const line = out.line(at);
    const heading = HEADING.exec(line);
    const fence = FENCE.exec(line)?.[1];
    if (heading !== null) {
      out.heading((heading[1] as string).length, heading[2] as string, at, at + 1);
      at++;
    } else if (fence !== undefined) {
      const end = endOfFence(out, at);
      if (/^[|,:!]/.test(fence)) out.push('lines', at + 1, end);
      else if (!fence.startsWith('//')) out.push('code', at + 1, end, language);
      at = end + 1;
    } else if (BLOCK_ATTRIBUTES.test(line)) {
      language = /^\[(?:source|,)\s*,?\s*([\w+#-]{1,30})/.exec(line)?.[1] ?? '';
      at++;
      continue;
    } else if (line.trim() === '' || WRAPPER.test(line) || ATTRIBUTE.test(line) || /^\/\/(?!\/)/.test(line)) at++;
    else at = readParagraph(out, at);
    language = '';
  }
  const title = out.blocks.find((block) => block.kind === 'heading')?.text;
  return { title, text, blocks: out.blocks };
}

/** The line that closes it, or the end. */
function endOfFence(out: LineBlocks, start: number): number {
  const mark = out.line(start).trimEnd();
  let at = start + 1;
  while (at < out.lines.length && out.line(at).trimEnd() !== mark) at++;
  return at;
}

/** To a blank line or what begins another block. */
function readParagraph(out: LineBlocks, start: number): number {
  let at = start + 1;
  while (at < out.lines.length && !out.isBlank(at) && !startsBlock(out.line(at))) at++;
  out.push(LIST.test(out.line(start)) ? 'list' : 'text', start, at);
  return at;
}

function startsBlock(line: string): boolean {
  return FENCE.test(line) || WRAPPER.test(line) || BLOCK_ATTRIBUTES.test(line) || /^={1,6}\s/.test(line);
}
