/** Where sentences end, and where a text without sentences may be cut. */

/** A part of a text, in UTF-16 units, `to` exclusive. */
export interface Range {
  from: number;
  to: number;
}

const MAX_SEGMENTED_LENGTH = 20_000;
const SEGMENTER = new Intl.Segmenter('en', { granularity: 'sentence' });
/** "e.g. Foo", "1. Foo": no end of a sentence, whatever the segmenter says. */
const NO_END = /(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|\d+)\.$/i;

/** Sentences, each on one line. */
export function splitSentences(text: string): string[] {
  // A line feed ends a sentence for the segmenter: lines are joined first.
  const joined = text.replace(/[ \t]*\n[ \t]*/g, ' ');
  return sentenceRanges(joined).map(({ from, to }) => joined.slice(from, to));
}

/** Sentences as they stand in the text, line feeds included, without the blanks around. */
export function sentenceRanges(text: string): Range[] {
  const ranges: Range[] = [];
  const flat = text.replaceAll('\n', ' ');
  // The segmenter's time grows with the square of some inputs: long texts go in by slices.
  for (const slice of hardRanges(flat, { from: 0, to: flat.length }, MAX_SEGMENTED_LENGTH)) {
    for (const { segment, index } of SEGMENTER.segment(flat.slice(slice.from, slice.to))) {
      const from = slice.from + index + (segment.length - segment.trimStart().length);
      const to = slice.from + index + segment.trimEnd().length;
      if (from >= to) continue;
      const before = ranges.at(-1);
      if (before !== undefined && NO_END.test(flat.slice(Math.max(before.from, before.to - 8), before.to)))
        before.to = to;
      else ranges.push({ from, to });
    }
  }
  return ranges;
}

/** At most `limit` long each: on blanks if there are any, else between characters; never inside a surrogate pair. */
export function hardRanges(text: string, { from, to }: Range, limit: number): Range[] {
  const parts: Range[] = [];
  let at = from;
  while (to - at > limit) {
    let end = at + limit;
    const blank = lastBlank(text, at, end);
    if (blank > at) end = blank;
    else if (isHighSurrogate(text.charCodeAt(end - 1))) end--;
    parts.push({ from: at, to: end });
    at = end;
    while (at < to && isBlank(text.charCodeAt(at))) at++;
  }
  if (at < to || parts.length === 0) parts.push({ from: at, to });
  return parts;
}

function lastBlank(text: string, from: number, to: number): number {
  for (let at = to; at > from; at--) if (isBlank(text.charCodeAt(at))) return at;
  return -1;
}

function isBlank(unit: number): boolean {
  return unit === 0x20 || unit === 0x09 || unit === 0x0a;
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}
