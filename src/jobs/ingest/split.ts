/**
 * Blocks that are longer than a chunk may be, in parts. A part is a stretch of the block as it
 * stands, so that line breaks stay, with what makes it whole around it: its fence, its header.
 */
import type { ContentBlock } from './blocks.ts';
import { hardRanges, type Range, sentenceRanges } from './sentences.ts';

/** A paragraph or three: enough to answer with, and several fit a model's context. In UTF-16 units. */
export const TARGET_CHUNK_LENGTH = 1_200;

/** No chunk's content is longer. Below the 2 KB where tsvector leaves a word out. In UTF-16 units. */
export const MAX_CHUNK_LENGTH = 2_000;

/** A table's header is repeated in each of its chunks unless it is longer. */
const MAX_REPEATED_HEADER_LENGTH = 400;
/** Longer lines are content, not a fence or a tag to repeat. */
const MAX_FENCE_LENGTH = 200;

const LIST_ITEM_START = /^ {0,1}(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)/;
/** What opens a fence, with what stands before it: indentation, quote marks, the marker of a list item. */
const FENCE_IN_CONTAINER = /^((?:[ \t>]|(?:[-*+]|\d{1,9}[.)])[ \t])*)(`{3,20}(?=[^`]*$)|~{3,20})/;
const PRE_OPEN = /^ {0,3}<(pre|script|style|textarea)(?:\s[^>]*)?>/i;

/** A part of a block, and where in the block it is. */
interface Part extends Range {
  text: string;
}

/** Each part is at most `MAX_CHUNK_LENGTH` long. */
export function splitBlock(block: ContentBlock): Part[] {
  const { text } = block;
  switch (block.kind) {
    case 'code':
      return block.fence === undefined ? splitCode(text) : splitFenced(text, block.fence);
    case 'table':
      return splitTable(text);
    case 'list':
      return splitList(text);
    case 'lines':
      return splitLines(text, whole(text), TARGET_CHUNK_LENGTH);
    case 'text':
      return splitText(text);
    default:
      return block satisfies never;
  }
}

/** Code without a fence, in one. */
export function fenced(code: string, info: string): string {
  const mark = '`'.repeat(Math.max(3, ...[...code.matchAll(/`{3,20}/g)].map(([ticks]) => ticks.length + 1)));
  return `${mark}${info}\n${code}\n${mark}`;
}

function splitFenced(code: string, info: string): Part[] {
  const room = TARGET_CHUNK_LENGTH - info.length - 50;
  return splitLines(code, whole(code), room).map((part) => ({ ...part, text: fenced(part.text, info) }));
}

/** Prose on sentences, anything else on lines. Line breaks stay in both. */
function splitText(text: string): Part[] {
  if (text.includes('\n') && (FENCE_LINE.test(text) || !isWrappedProse(text))) return splitContained(text, whole(text));
  return splitProse(text, whole(text));
}

const FENCE_LINE = /^[ \t>]+(?:`{3,}|~{3,})/m;

function splitProse(text: string, { from, to }: Range): Part[] {
  const ranges = sentenceRanges(text.slice(from, to)).map((range) => ({
    from: from + range.from,
    to: from + range.to,
  }));
  const small = ranges.flatMap((range) =>
    range.to - range.from <= TARGET_CHUNK_LENGTH ? [range] : hardRanges(text, range, TARGET_CHUNK_LENGTH),
  );
  return toParts(text, packRanges(small, TARGET_CHUNK_LENGTH));
}

/**
 * Whether lines are the lines of paragraphs: begun by letters, many words each, hardly ever a line
 * that is a sentence by itself or has a hard break. Logs, records, code, verse and quotes are not.
 */
function isWrappedProse(text: string): boolean {
  const lines = text.slice(0, 20_000).split('\n');
  if (lines.length < 2) return true;
  let prose = 0;
  let closed = 0;
  let hard = 0;
  for (const line of lines) {
    const words = line.match(/\p{L}{2,}/gu)?.length ?? 0;
    const letters = line.match(/[\p{L}\p{M} ]/gu)?.length ?? 0;
    if (/^\s*["'“„«([]?\p{L}/u.test(line) && words >= 5 && letters >= line.length * 0.85) prose++;
    if (/[.!?…。！？:;{},]["'”»)\]]?\s*$/u.test(line)) closed++;
    if (/(?:\\| {2})$/.test(line)) hard++;
  }
  return prose >= lines.length * 0.7 && closed <= lines.length * 0.5 && hard < lines.length * 0.5;
}

/** On lines, and on blank lines where there are any. */
function splitLines(text: string, range: Range, limit: number): Part[] {
  const lines = lineRanges(text, range).flatMap((line) => hardRanges(text, line, limit));
  const isBlankLine = (at: number): boolean => {
    const line = lines[at];
    return line !== undefined && text.slice(line.from, line.to).trim() === '';
  };
  return toParts(
    text,
    packRanges(lines, limit, (at) => isBlankLine(at + 1)),
  );
}

/** On lines; each part gets the fence or the `<pre>`, so that each is code by itself. */
function splitCode(text: string): Part[] {
  const lineEnd = text.indexOf('\n');
  const open = lineEnd === -1 ? text : text.slice(0, lineEnd);
  const fence = FENCE_IN_CONTAINER.exec(open);
  if (lineEnd !== -1 && fence !== null && open.length <= MAX_FENCE_LENGTH) return splitFence(text, whole(text));
  const pre = PRE_OPEN.exec(open);
  if (pre === null || pre[0].length > MAX_FENCE_LENGTH) return splitLines(text, whole(text), TARGET_CHUNK_LENGTH);
  const close = `</${pre[1]}>`;
  const ends = text.trimEnd().toLowerCase().endsWith(close.toLowerCase());
  const body = { from: pre[0].length, to: ends ? text.trimEnd().length - close.length : text.length };
  const room = TARGET_CHUNK_LENGTH - pre[0].length - close.length - 2;
  return splitLines(text, body, room).map((part) => ({ ...part, text: `${pre[0]}\n${part.text}\n${close}` }));
}

/** A fence from its opening line to its closing one, or to the end. */
function splitFence(text: string, range: Range): Part[] {
  const lines = lineRanges(text, range);
  const [first, last] = [lines[0] as Range, lines.at(-1) as Range];
  const open = text.slice(first.from, first.to);
  const [, before = '', mark = ''] = FENCE_IN_CONTAINER.exec(open) ?? [];
  const isClosed =
    lines.length > 1 &&
    text
      .slice(last.from, last.to)
      .replace(/^[ \t>]+/, '')
      .startsWith(mark);
  // The marker of a list item stands on the first part alone: further parts are indented as its content is.
  const indent = before.replace(/[^ \t>]/g, ' ');
  const again = indent + open.slice(before.length);
  const body = { from: Math.min(first.to + 1, range.to), to: isClosed ? Math.max(first.to, last.from - 1) : range.to };
  const room = Math.max(200, TARGET_CHUNK_LENGTH - open.length - indent.length - mark.length - 2);
  const parts = body.from >= body.to ? [] : splitLines(text, body, room);
  if (parts.length === 0) return [{ ...range, text: text.slice(range.from, range.to) }];
  return parts.map((part, at) => ({
    from: at === 0 ? range.from : part.from,
    to: at === parts.length - 1 ? range.to : part.to,
    text: `${at === 0 ? open : again}\n${part.text}\n${indent}${mark}`,
  }));
}

/** On rows; each part gets the header. */
function splitTable(text: string): Part[] {
  const lines = lineRanges(text, whole(text));
  const headerEnd = (lines[1] ?? (lines[0] as Range)).to;
  const header = text.slice(0, headerEnd);
  if (header.length > MAX_REPEATED_HEADER_LENGTH || headerEnd === text.length)
    return splitLines(text, whole(text), TARGET_CHUNK_LENGTH);
  const rows = { from: headerEnd + 1, to: text.length };
  return splitLines(text, rows, TARGET_CHUNK_LENGTH - header.length - 1).map((part) => ({
    ...part,
    text: `${header}\n${part.text}`,
  }));
}

/** On its outermost items, then on what they are made of. */
function splitList(text: string): Part[] {
  const items: Range[] = [];
  let inFence: string | undefined;
  for (const line of lineRanges(text, whole(text))) {
    const content = text.slice(line.from, line.to);
    const starts = inFence === undefined && LIST_ITEM_START.test(content);
    inFence = fenceAfter(inFence, content);
    const before = items.at(-1);
    if (before === undefined || starts) items.push({ ...line });
    else before.to = line.to;
  }
  const parts: Part[] = [];
  let run: Range[] = [];
  const endRun = (): void => {
    parts.push(...toParts(text, packRanges(run, TARGET_CHUNK_LENGTH)));
    run = [];
  };
  for (const item of items) {
    if (item.to - item.from <= MAX_CHUNK_LENGTH) {
      run.push(item);
      continue;
    }
    endRun();
    parts.push(...splitContained(text, item));
  }
  endRun();
  return parts;
}

/** Lines of a list item or a quote: fences in them are kept, or cut with a fence on every part. */
function splitContained(text: string, range: Range): Part[] {
  const parts: Part[] = [];
  let plain: Range | undefined;
  let fence: Range | undefined;
  let mark: string | undefined;
  const endPlain = (): void => {
    if (plain !== undefined) parts.push(...splitLines(text, plain, TARGET_CHUNK_LENGTH));
    plain = undefined;
  };
  for (const line of lineRanges(text, range)) {
    const before = mark;
    mark = fenceAfter(mark, text.slice(line.from, line.to));
    if (before === undefined && mark === undefined) {
      if (plain === undefined) plain = { ...line };
      else plain.to = line.to;
      continue;
    }
    if (fence === undefined) fence = { ...line };
    else fence.to = line.to;
    if (mark !== undefined) continue;
    endPlain();
    parts.push(...fenceParts(text, fence));
    fence = undefined;
  }
  endPlain();
  if (fence !== undefined) parts.push(...fenceParts(text, fence));
  return joinNeighbours(text, parts);
}

function fenceParts(text: string, range: Range): Part[] {
  if (range.to - range.from > MAX_CHUNK_LENGTH) return splitFence(text, range);
  return [{ ...range, text: text.slice(range.from, range.to) }];
}

/** The mark of the fence that is open after a line, given the one before it. */
function fenceAfter(open: string | undefined, line: string): string | undefined {
  if (open === undefined) return line.length > MAX_FENCE_LENGTH ? undefined : FENCE_IN_CONTAINER.exec(line)?.[2];
  const rest = line.replace(/^[ \t>]+/, '').trimEnd();
  const closes = rest.length >= open.length && rest === (open[0] as string).repeat(rest.length);
  return closes ? undefined : open;
}

/** Neighbours that fit one chunk together, where both are as they stand in the text. */
function joinNeighbours(text: string, parts: readonly Part[]): Part[] {
  const joined: Part[] = [];
  const isVerbatim = (part: Part): boolean => part.text.length === part.to - part.from;
  for (const part of parts) {
    const before = joined.at(-1);
    if (
      before !== undefined &&
      isVerbatim(before) &&
      isVerbatim(part) &&
      part.to - before.from <= TARGET_CHUNK_LENGTH
    ) {
      joined[joined.length - 1] = { from: before.from, to: part.to, text: text.slice(before.from, part.to) };
    } else joined.push(part);
  }
  return joined;
}

/**
 * Neighbours joined while they fit.
 *
 * @param endsWell whether the cut after a range is a good one: the last of them in the second half is taken
 */
function packRanges(ranges: readonly Range[], limit: number, endsWell?: (at: number) => boolean): Range[] {
  const packed: Range[] = [];
  let first = 0;
  while (first < ranges.length) {
    const start = (ranges[first] as Range).from;
    const fits = (at: number): boolean => at < ranges.length && (ranges[at] as Range).to - start <= limit;
    let last = first;
    while (fits(last + 1)) last++;
    if (endsWell !== undefined && last + 1 < ranges.length) {
      let good = last;
      while (good > first && !endsWell(good)) good--;
      if ((ranges[good] as Range).to - start >= limit / 2) last = good;
    }
    packed.push({ from: start, to: (ranges[last] as Range).to });
    first = last + 1;
  }
  return packed;
}

/** Without blank lines around, and without parts that are nothing else. */
function toParts(text: string, ranges: readonly Range[]): Part[] {
  return ranges.flatMap((range) => {
    const raw = text.slice(range.from, range.to);
    const content = raw.trimEnd();
    if (content === '') return [];
    const lead = /^(?:[ \t]*\n)*/.exec(content)?.[0].length ?? 0;
    return [{ from: range.from + lead, to: range.from + content.length, text: content.slice(lead) }];
  });
}

function lineRanges(text: string, { from, to }: Range): Range[] {
  const lines: Range[] = [];
  let at = from;
  for (;;) {
    const end = text.indexOf('\n', at);
    if (end === -1 || end >= to) break;
    lines.push({ from: at, to: end });
    at = end + 1;
  }
  lines.push({ from: at, to });
  return lines;
}

function whole(text: string): Range {
  return { from: 0, to: text.length };
}
