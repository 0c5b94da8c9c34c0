/**
 * Markdown as blocks: what a chunker must know of it, not a full parse. Inline markup stays
 * as it is, so that passages can be quoted. Blocks follow CommonMark where it matters for
 * cutting: fences, ATX and setext headings, lists, tables, comments, `<pre>`.
 */
import type { Block } from './blocks.ts';

type MarkdownBlock = Exclude<Block, { kind: 'lines' }>;

const FENCE = /^([ \t]*)(`{3,}(?=[^`]*$)|~{3,})/;
const ATX_HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$/;
const HTML_HEADING = /^ {0,3}<h([1-6])(?:\s[^>]*)?>(.*)<\/h\1>[ \t]*$/i;
const SETEXT_UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const THEMATIC_BREAK = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const LIST_ITEM = /^[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const TABLE_DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
/** `<a id="rotate"></a>` before a heading: a link target, no content. */
const ANCHOR_LINE = /^[ \t]*(?:<a\s[^>]*>[ \t]*<\/a>[ \t]*)+$/;
/** Runs to its closing tag, over blank lines too. */
const PRE_OPEN = /^ {0,3}<(pre|script|style|textarea)(?=[\s>]|$)/i;
/** Longer headings are text that somebody marked up as a heading. */
const MAX_HEADING_LENGTH = 300;
/** With its markup. Longer ones are not looked at: the patterns take the square of the length at worst. */
const MAX_RAW_HEADING_LENGTH = 2_000;

/**
 * Markdown text (a document or a chunk of one) as blocks.
 *
 * @param offset of the first line in the text that blocks are placed in, in UTF-16 units
 */
export function readBlocks(lines: readonly string[], offset = 0): MarkdownBlock[] {
  const out = new BlockList(lines, offset);
  let paragraph: number | undefined;
  const endParagraph = (at: number): void => {
    if (paragraph !== undefined) out.push('text', paragraph, at);
    paragraph = undefined;
  };
  // Looked for once: comments that nobody closes would each be searched to the end.
  const lastClose = lines.findLastIndex((line) => line.includes('-->'));
  const closings = new Map<string, number>();
  const lastClosing = (tag: string): number => {
    const close = `</${tag.toLowerCase()}>`;
    const known = closings.get(close) ?? lines.findLastIndex((line) => line.toLowerCase().includes(close));
    closings.set(close, known);
    return known;
  };
  let at = 0;
  while (at < lines.length) {
    const line = lines[at] as string;
    const found = startsBlock(lines, at, lastClosing);
    if (found !== undefined) {
      endParagraph(at);
      if (found.kind === 'heading') out.pushHeading(found.level, found.text, at, at + 1);
      else if (found.kind !== 'nothing') out.push(found.kind, at, found.next);
      at = found.next;
    } else if (
      paragraph !== undefined &&
      SETEXT_UNDERLINE.test(line) &&
      !(lines[paragraph] as string).trimStart().startsWith('>')
    ) {
      out.pushHeading(line.includes('=') ? 1 : 2, lines.slice(paragraph, at).join(' '), paragraph, at + 1);
      paragraph = undefined;
      at++;
    } else if (THEMATIC_BREAK.test(line)) {
      endParagraph(at);
      at++;
    } else if (paragraph === undefined && at <= lastClose && line.trimStart().startsWith('<!--')) {
      at = out.pushAfterComment(at);
    } else if (ANCHOR_LINE.test(line)) {
      endParagraph(at);
      at++;
    } else {
      const next = startsContainer(lines, at, paragraph !== undefined);
      if (next !== undefined) {
        endParagraph(at);
        out.push(next.kind, at, next.next);
      } else paragraph ??= at;
      at = next?.next ?? at + 1;
    }
  }
  endParagraph(lines.length);
  return out.blocks;
}

type Start =
  | { kind: 'heading'; level: number; text: string; next: number }
  | { kind: 'code' | 'nothing'; next: number };

/** What ends a paragraph wherever it stands. */
function startsBlock(lines: readonly string[], at: number, lastClosing: (tag: string) => number): Start | undefined {
  const line = lines[at] as string;
  if (line.trim() === '') return { kind: 'nothing', next: at + 1 };
  const fence = FENCE.exec(line);
  if (fence !== null && indentOf(fence[1] as string) <= 3) return { kind: 'code', next: endOfFence(lines, at) };
  if (line.length > MAX_RAW_HEADING_LENGTH) return undefined;
  const heading = ATX_HEADING.exec(line);
  if (heading !== null)
    return { kind: 'heading', level: (heading[1] as string).length, text: heading[2] ?? '', next: at + 1 };
  const html = HTML_HEADING.exec(line);
  if (html !== null) return { kind: 'heading', level: Number(html[1]), text: html[2] ?? '', next: at + 1 };
  const tag = PRE_OPEN.exec(line)?.[1];
  // One that is never closed is text that begins like a tag.
  if (tag === undefined || at > lastClosing(tag)) return undefined;
  return { kind: 'code', next: endOfPre(lines, at, tag) };
}

function startsContainer(
  lines: readonly string[],
  at: number,
  inParagraph: boolean,
): { kind: 'list' | 'table' | 'code'; next: number } | undefined {
  const line = lines[at] as string;
  if (LIST_ITEM.test(line) && (inParagraph ? interruptsParagraph(line) : indentOf(line) <= 3))
    return { kind: 'list', next: endOfList(lines, at) };
  if (inParagraph) return undefined;
  if (startsTable(lines, at)) return { kind: 'table', next: endOfTable(lines, at) };
  return indentOf(line) >= 4 ? { kind: 'code', next: endOfIndented(lines, at) } : undefined;
}

/** Blocks with their places, which are those of their lines. */
class BlockList {
  readonly blocks: MarkdownBlock[] = [];
  readonly #lines: readonly string[];
  /** Of each line, and one past the last. */
  readonly #starts: number[] = [];

  constructor(lines: readonly string[], offset: number) {
    this.#lines = lines;
    let start = offset;
    for (const line of lines) {
      this.#starts.push(start);
      start += line.length + 1;
    }
    this.#starts.push(start);
  }

  push(kind: 'text' | 'list' | 'table' | 'code', from: number, to: number): void {
    let first = from;
    let last = to;
    while (first < last && (this.#lines[first] as string).trim() === '') first++;
    while (last > first && (this.#lines[last - 1] as string).trim() === '') last--;
    if (first === last) return;
    const text = this.#lines.slice(first, last).join('\n');
    const start = this.#starts[first] as number;
    this.blocks.push({ kind, text, start, end: start + text.length });
  }

  pushHeading(level: number, raw: string, from: number, to: number): void {
    const text = raw.length > MAX_RAW_HEADING_LENGTH ? raw : plainHeading(raw);
    if (text === '') return;
    const place = { start: this.#starts[from] as number, end: (this.#starts[to] as number) - 1 };
    if (text.length > MAX_HEADING_LENGTH) this.blocks.push({ kind: 'text', text: raw.trim(), ...place });
    else this.blocks.push({ kind: 'heading', level, text, ...place });
  }

  /** What follows a comment on its last line. @returns the line after it */
  pushAfterComment(start: number): number {
    const lines = this.#lines;
    for (let at = start; at < lines.length; at++) {
      const line = lines[at] as string;
      const close = line.indexOf('-->', at === start ? line.indexOf('<!--') + 4 : 0);
      if (close === -1) continue;
      const text = line.slice(close + 3);
      const place = (this.#starts[at] as number) + close + 3;
      if (text.trim() !== '') this.blocks.push({ kind: 'text', text, start: place, end: place + text.length });
      return at + 1;
    }
    // Never closed: no comment, but text that begins like one.
    this.push('text', start, start + 1);
    return start + 1;
  }
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

/** The line after the one that closes the tag. */
function endOfPre(lines: readonly string[], start: number, tag: string): number {
  const close = `</${tag.toLowerCase()}>`;
  let at = start;
  while (at < lines.length && !(lines[at] as string).toLowerCase().includes(close)) at++;
  return at + 1;
}

/** CommonMark: an empty item, or a number other than 1, does not interrupt a paragraph. */
function interruptsParagraph(line: string): boolean {
  return indentOf(line) <= 3 && /^[ \t]*(?:[-*+]|1[.)])[ \t]+\S/.test(line);
}

/** A heading as people read it: no anchors, link targets or emphasis. Code spans stay as they stand. */
function plainHeading(raw: string): string {
  const spans: string[] = [];
  return raw
    .replaceAll(/[\uE000\uE001]/g, '')
    .replace(/(?<!`)(`+)(?!`)(.*?[^`])\1(?!`)/g, (span) => `\uE000${spans.push(span) - 1}\uE001`)
    .replace(/<\/?(?:a|img|br|b|i|em|strong|code|sup|sub|span|picture|source)(?:\s[^>]*)?\/?>/gi, '')
    .replace(/!?\[([^\]]*)\]\([^()]*(?:\([^()]*\)[^()]*)*\)/g, '$1')
    .replace(/\s*\{#[\w-]+\}\s*$/, '')
    .replace(/(\*\*|__)(?=\S)(.+?)\1/g, '$2')
    .replace(/\uE000(\d+)\uE001/g, (_, at) => spans[Number(at)] as string)
    .replace(/\s+/g, ' ')
    .trim();
}
