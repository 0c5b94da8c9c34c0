/**
 * Markdown as blocks: what a chunker must know of it, not a full parse. Inline markup stays
 * as it is, so that passages can be quoted. Blocks follow CommonMark where it matters for
 * cutting: fences, ATX and setext headings, lists, tables, comments, front matter.
 */
import { type Block, normalizeText } from './blocks.ts';

const FENCE = /^([ \t]*)(`{3,}(?=[^`]*$)|~{3,})/;
const ATX_HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$/;
const HTML_HEADING = /^ {0,3}<h([1-6])(?:\s[^>]*)?>(.*)<\/h\1>[ \t]*$/i;
const SETEXT_UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const THEMATIC_BREAK = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const LIST_ITEM = /^[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const TABLE_DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
/** `<a id="rotate"></a>` before a heading: a link target, no content. */
const ANCHOR_LINE = /^[ \t]*(?:<a\s[^>]*>[ \t]*<\/a>[ \t]*)+$/;
/** Longer headings are text that somebody marked up as a heading. */
const MAX_HEADING_LENGTH = 300;
/** With its markup. Longer ones are not looked at: the patterns take the square of the length at worst. */
const MAX_RAW_HEADING_LENGTH = 2_000;
const MAX_FRONT_MATTER_LINES = 200;

export function parseMarkdown(content: string): { title: string | undefined; blocks: Block[] } {
  const lines = normalizeText(content).split('\n');
  const front = readFrontMatter(lines);
  const blocks = readBlocks(lines.slice(front.next));
  if (front.description !== undefined) blocks.unshift({ kind: 'text', text: front.description });
  const opening = blocks[0]?.kind === 'heading' ? blocks[0].text : undefined;
  const title = front.title ?? blocks.find((block) => block.kind === 'heading' && block.level === 1)?.text ?? opening;
  return { title, blocks };
}

/** Markdown text (a document or a chunk of one) as blocks. */
export function readBlocks(lines: readonly string[]): Block[] {
  const blocks: Block[] = [];
  let paragraph: string[] = [];
  const endParagraph = (): void => {
    pushBlock(blocks, 'text', paragraph);
    paragraph = [];
  };
  // Looked for once: comments that nobody closes would each be searched to the end.
  const lastClose = lines.findLastIndex((line) => line.includes('-->'));
  let at = 0;
  while (at < lines.length) {
    const line = lines[at] as string;
    const fence = FENCE.exec(line);
    const heading = line.length > MAX_RAW_HEADING_LENGTH ? null : ATX_HEADING.exec(line);
    const htmlHeading = line.length > MAX_RAW_HEADING_LENGTH ? null : HTML_HEADING.exec(line);
    if (line.trim() === '') {
      endParagraph();
      at++;
    } else if (fence !== null && indentOf(fence[1] as string) <= 3) {
      endParagraph();
      const next = endOfFence(lines, at);
      pushBlock(blocks, 'code', lines.slice(at, next));
      at = next;
    } else if (heading !== null) {
      endParagraph();
      pushHeading(blocks, (heading[1] as string).length, heading[2] ?? '');
      at++;
    } else if (htmlHeading !== null) {
      endParagraph();
      pushHeading(blocks, Number(htmlHeading[1]), htmlHeading[2] ?? '');
      at++;
    } else if (
      paragraph.length > 0 &&
      SETEXT_UNDERLINE.test(line) &&
      !(paragraph[0] as string).trimStart().startsWith('>')
    ) {
      const text = paragraph.join(' ');
      paragraph = [];
      pushHeading(blocks, line.includes('=') ? 1 : 2, text);
      at++;
    } else if (THEMATIC_BREAK.test(line)) {
      endParagraph();
      at++;
    } else if (paragraph.length === 0 && at <= lastClose && line.trimStart().startsWith('<!--')) {
      at = endOfComment(lines, at, blocks);
    } else if (ANCHOR_LINE.test(line)) {
      endParagraph();
      at++;
    } else if (LIST_ITEM.test(line) && (paragraph.length === 0 ? indentOf(line) <= 3 : interruptsParagraph(line))) {
      endParagraph();
      const next = endOfList(lines, at);
      pushBlock(blocks, 'list', lines.slice(at, next));
      at = next;
    } else if (paragraph.length === 0 && startsTable(lines, at)) {
      const next = endOfTable(lines, at);
      pushBlock(blocks, 'table', lines.slice(at, next));
      at = next;
    } else if (paragraph.length === 0 && indentOf(line) >= 4) {
      const next = endOfIndented(lines, at);
      pushBlock(blocks, 'code', lines.slice(at, next));
      at = next;
    } else {
      paragraph.push(line);
      at++;
    }
  }
  endParagraph();
  return blocks;
}

/** Columns before the first character that is no blank; a tab goes to the next multiple of 4. */
function indentOf(line: string): number {
  let column = 0;
  for (const character of line) {
    if (character === ' ') column++;
    else if (character === '\t') column += 4 - (column % 4);
    else break;
  }
  return column;
}

function startsTable(lines: readonly string[], at: number): boolean {
  const delimiter = lines[at + 1] ?? '';
  return (lines[at] as string).includes('|') && TABLE_DELIMITER.test(delimiter) && delimiter.includes('|');
}

/** The first line that has no cell. */
function endOfTable(lines: readonly string[], start: number): number {
  let at = start + 2;
  while (at < lines.length && (lines[at] as string).trim() !== '' && (lines[at] as string).includes('|')) at++;
  return at;
}

/** The first line that has text and is indented less than code. */
function endOfIndented(lines: readonly string[], start: number): number {
  let at = start + 1;
  while (at < lines.length && ((lines[at] as string).trim() === '' || indentOf(lines[at] as string) >= 4)) at++;
  return at;
}

/** The line after the closing fence of the one that opens at `start`; unclosed, it goes to the end. */
function endOfFence(lines: readonly string[], start: number): number {
  const mark = FENCE.exec(lines[start] as string)?.[2] as string;
  const closing = new RegExp(`^[ \\t]*\\${mark[0]}{${mark.length},}[ \\t]*$`);
  let at = start + 1;
  while (at < lines.length && !closing.test(lines[at] as string)) at++;
  return Math.min(at + 1, lines.length);
}

/** A list continues over blank lines as long as items or indented lines follow; fences in it are skipped whole. */
function endOfList(lines: readonly string[], start: number): number {
  let at = start;
  let end = start;
  while (at < lines.length) {
    const line = lines[at] as string;
    const blankBefore = at > start && (lines[at - 1] as string).trim() === '';
    if (line.trim() === '') {
      at++;
      continue;
    }
    const isItem = LIST_ITEM.test(line) && !THEMATIC_BREAK.test(line);
    const isIndented = indentOf(line) >= 2;
    if (!isItem && !isIndented) {
      // Lazy continuation of the item's paragraph, unless another block starts here.
      if (
        blankBefore ||
        ATX_HEADING.test(line.slice(0, MAX_RAW_HEADING_LENGTH)) ||
        FENCE.test(line) ||
        THEMATIC_BREAK.test(line) ||
        ANCHOR_LINE.test(line)
      )
        break;
    }
    at = !isItem && FENCE.test(line) ? endOfFence(lines, at) : at + 1;
    end = at;
  }
  return end;
}

function endOfComment(lines: readonly string[], start: number, blocks: Block[]): number {
  for (let at = start; at < lines.length; at++) {
    const line = lines[at] as string;
    const close = line.indexOf('-->', at === start ? line.indexOf('<!--') + 4 : 0);
    if (close === -1) continue;
    pushBlock(blocks, 'text', [line.slice(close + 3)]);
    return at + 1;
  }
  // Never closed: no comment, but text that begins like one.
  pushBlock(blocks, 'text', [lines[start] as string]);
  return start + 1;
}

/** CommonMark: an empty item, or a number other than 1, does not interrupt a paragraph. */
function interruptsParagraph(line: string): boolean {
  return indentOf(line) <= 3 && /^[ \t]*(?:[-*+]|1[.)])[ \t]+\S/.test(line);
}

function pushHeading(blocks: Block[], level: number, raw: string): void {
  const text = raw.length > MAX_RAW_HEADING_LENGTH ? raw : plainHeading(raw);
  if (text === '') return;
  if (text.length > MAX_HEADING_LENGTH) blocks.push({ kind: 'text', text: raw.trim() });
  else blocks.push({ kind: 'heading', level, text });
}

function pushBlock(blocks: Block[], kind: 'text' | 'list' | 'table' | 'code', lines: readonly string[]): void {
  let first = 0;
  let last = lines.length;
  while (first < last && (lines[first] as string).trim() === '') first++;
  while (last > first && (lines[last - 1] as string).trim() === '') last--;
  if (first < last) blocks.push({ kind, text: lines.slice(first, last).join('\n') });
}

/** A heading as people read it: no anchors, link targets or emphasis. */
function plainHeading(raw: string): string {
  return raw
    .replace(/<\/?(?:a|img|br|b|i|em|strong|code|sup|sub|span|picture|source)(?:\s[^>]*)?\/?>/gi, '')
    .replace(/!?\[([^\]]*)\]\([^()]*(?:\([^()]*\)[^()]*)*\)/g, '$1')
    .replace(/\s*\{#[\w-]+\}\s*$/, '')
    .replace(/(\*\*|__)(?=\S)(.+?)\1/g, '$2')
    .replace(/\s+/g, ' ')
    .trim();
}

interface FrontMatter {
  title: string | undefined;
  description: string | undefined;
  /** First line after it. */
  next: number;
}

/** YAML between `---` lines at the very top. Only its title and description are of use to a reader. */
function readFrontMatter(lines: readonly string[]): FrontMatter {
  const none = { title: undefined, description: undefined, next: 0 };
  if (lines[0]?.trimEnd() !== '---') return none;
  const fields = new Map<string, string>();
  for (let at = 1; at < Math.min(lines.length, MAX_FRONT_MATTER_LINES); at++) {
    const line = (lines[at] as string).trimEnd();
    if (line === '---' || line === '...') {
      if (fields.size === 0) return none;
      return { title: fields.get('title'), description: fields.get('description'), next: at + 1 };
    }
    const field = /^([\w-]+):(?:[ \t]+(.*))?$/.exec(line);
    if (field !== null) fields.set((field[1] as string).toLowerCase(), unquote(field[2] ?? ''));
    // Anything that YAML would not have here means that the first line was a thematic break.
    else if (line !== '' && !/^(?:[ \t]|#|- )/.test(line)) return none;
  }
  return none;
}

function unquote(value: string): string {
  const quoted = /^(["'])(.*)\1$/.exec(value.trim());
  return (quoted?.[2] ?? value).trim();
}
