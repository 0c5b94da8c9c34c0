/**
 * Blocks into chunks: along headings first, then along blocks, and inside a block only when
 * it is longer than a chunk may be.
 */
import type { Block, ParsedDocument } from './blocks.ts';

/** Raise it with every change that makes other chunks of the same content: documents are then chunked anew. */
export const CHUNKER_VERSION = 1;

/** A paragraph or three: enough to answer with, and several fit a model's context. In UTF-16 units. */
export const TARGET_CHUNK_LENGTH = 1_200;

/** No chunk's content is longer. Below the 2 KB where tsvector leaves a word out. In UTF-16 units. */
export const MAX_CHUNK_LENGTH = 2_000;

const HEADING_SEPARATOR = ' > ';
/** Headings are indexed with every chunk below them; a path longer than this loses its middle. */
const MAX_HEADING_PATH_LENGTH = 800;
/** A table's header is repeated in each of its chunks unless it is longer. */
const MAX_REPEATED_HEADER_LENGTH = 400;

export interface Chunk {
  /** The title and the headings above it, outermost first. */
  heading: string;
  content: string;
}

export function chunkDocument(document: ParsedDocument): Chunk[] {
  const chunks: Chunk[] = [];
  const path: { level: number; text: string }[] = [];
  let section: Piece[] = [];
  // A heading's own words are found through the chunks below it; one with none below stands for itself.
  let bare: string | undefined;

  const endSection = (nextLevel: number): void => {
    const heading = headingPath(
      document.title,
      path.map(({ text }) => text),
    );
    if (section.length > 0) {
      for (const content of pack(section)) chunks.push({ heading, content });
    } else if (bare !== undefined && nextLevel <= (path.at(-1)?.level ?? 0)) {
      chunks.push({ heading, content: bare });
    }
    section = [];
    bare = undefined;
  };

  for (const block of document.blocks) {
    if (block.kind !== 'heading') {
      section.push(...toPieces(block));
      continue;
    }
    endSection(block.level);
    while ((path.at(-1)?.level ?? 0) >= block.level) path.pop();
    path.push({ level: block.level, text: block.text });
    bare = block.text;
  }
  endSection(0);
  return chunks;
}

/** `Title > Section > Part`; the title is not said twice. */
function headingPath(title: string, headings: readonly string[]): string {
  const parts = headings[0] === title ? headings : [title, ...headings];
  const whole = parts.join(HEADING_SEPARATOR);
  if (whole.length <= MAX_HEADING_PATH_LENGTH) return whole;
  const last = parts.at(-1) as string;
  const room =
    MAX_HEADING_PATH_LENGTH - Math.min(last.length, MAX_HEADING_PATH_LENGTH / 2) - 2 * HEADING_SEPARATOR.length;
  return [cut(title, room), '…', cut(last, MAX_HEADING_PATH_LENGTH / 2)].join(HEADING_SEPARATOR);
}

interface Piece {
  kind: Exclude<Block['kind'], 'heading'>;
  /** At most `MAX_CHUNK_LENGTH`. */
  text: string;
  /** Continues from the piece before: joined by this instead of a blank line. */
  joint?: string;
}

/** Fills chunks up to the target; code or a list that the text announces ("like so:") may go over it. */
function pack(pieces: readonly Piece[]): string[] {
  const contents: string[] = [];
  let current = '';
  let last: Piece | undefined;
  for (const piece of pieces) {
    const joined = current === '' ? piece.text : current + (piece.joint ?? '\n\n') + piece.text;
    const announced = last?.kind === 'text' && piece.kind !== 'text' && /:\s*$/.test(last.text);
    if (current !== '' && joined.length > (announced ? MAX_CHUNK_LENGTH : TARGET_CHUNK_LENGTH)) {
      contents.push(current);
      current = piece.text;
    } else current = joined;
    last = piece;
  }
  if (current !== '') contents.push(current);
  return contents;
}

function toPieces(block: Exclude<Block, { kind: 'heading' }>): Piece[] {
  const { kind, text } = block;
  if (text.length <= MAX_CHUNK_LENGTH) return [{ kind, text }];
  if (kind === 'code') return splitCode(text).map((part) => ({ kind, text: part }));
  if (kind === 'table') return splitTable(text).map((part) => ({ kind, text: part }));
  if (kind === 'list') return splitList(text).map((part) => ({ kind, text: part, joint: '\n' }));
  return splitProse(text, TARGET_CHUNK_LENGTH).map((part) => ({ kind, text: part, joint: ' ' }));
}

/** On lines; each part gets the fence, so that each is code by itself. */
function splitCode(text: string): string[] {
  const lines = text.split('\n');
  const open = lines[0] as string;
  const mark = /^[ \t]*(`{3,}|~{3,})/.exec(open)?.[1];
  // An info string longer than a line should be is content, not a fence to repeat.
  if (mark === undefined || open.length > 200 || mark.length > 20)
    return packParts(
      lines.flatMap((line) => splitHard(line, TARGET_CHUNK_LENGTH)),
      '\n',
      TARGET_CHUNK_LENGTH,
    );
  const closed = lines.length > 1 && (lines.at(-1) as string).trim().startsWith(mark);
  const body = lines.slice(1, closed ? -1 : undefined);
  const room = TARGET_CHUNK_LENGTH - open.length - mark.length - 2;
  return packParts(
    body.flatMap((line) => splitHard(line, room)),
    '\n',
    room,
  ).map((part) => `${open}\n${part}\n${mark}`);
}

/** On rows; each part gets the header. */
function splitTable(text: string): string[] {
  const lines = text.split('\n');
  const header = lines.slice(0, 2).join('\n');
  if (header.length > MAX_REPEATED_HEADER_LENGTH)
    return packParts(
      lines.flatMap((line) => splitHard(line, TARGET_CHUNK_LENGTH)),
      '\n',
      TARGET_CHUNK_LENGTH,
    );
  const room = TARGET_CHUNK_LENGTH - header.length - 1;
  return packParts(
    lines.slice(2).flatMap((line) => splitHard(line, room)),
    '\n',
    room,
  ).map((part) => `${header}\n${part}`);
}

/** On its outermost items, then on lines. */
function splitList(text: string): string[] {
  const items: string[] = [];
  for (const line of text.split('\n')) {
    if (items.length === 0 || /^ {0,1}(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)/.test(line)) items.push(line);
    else items[items.length - 1] += `\n${line}`;
  }
  const parts = items.flatMap((item) =>
    item.length <= MAX_CHUNK_LENGTH
      ? [item]
      : packParts(
          item.split('\n').flatMap((line) => splitProse(line, TARGET_CHUNK_LENGTH)),
          '\n',
          TARGET_CHUNK_LENGTH,
        ),
  );
  return packParts(parts, '\n', TARGET_CHUNK_LENGTH);
}

/** On sentences, then on words, then anywhere. */
function splitProse(text: string, limit: number): string[] {
  if (text.length <= limit) return [text];
  const sentences = splitSentences(text).flatMap((sentence) =>
    sentence.length <= limit ? [sentence] : splitHard(sentence, limit),
  );
  return packParts(sentences, ' ', limit);
}

/** Sentences, each on one line. */
export function splitSentences(text: string): string[] {
  const sentences: string[] = [];
  // A line feed ends a sentence for the segmenter, and its time grows with the square of some
  // inputs: lines are joined, long texts go in by slices.
  for (const part of splitHard(text.replace(/[ \t]*\n[ \t]*/g, ' '), MAX_SEGMENTED_LENGTH)) {
    for (const { segment } of SEGMENTER.segment(part)) {
      const sentence = segment.trim();
      const before = sentences.at(-1);
      // "e.g. Foo", "1. Foo": no end of a sentence, whatever the segmenter says.
      if (before !== undefined && /(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|\d+)\.$/i.test(before.slice(-8))) {
        sentences[sentences.length - 1] = `${before} ${sentence}`;
      } else if (sentence !== '') sentences.push(sentence);
    }
  }
  return sentences;
}

const MAX_SEGMENTED_LENGTH = 20_000;
const SEGMENTER = new Intl.Segmenter('en', { granularity: 'sentence' });

/** On blanks if there are any, else between characters; never inside a surrogate pair. */
function splitHard(text: string, limit: number): string[] {
  const parts: string[] = [];
  let at = 0;
  while (text.length - at > limit) {
    let end = at + limit;
    const blank = lastBlank(text, at, end);
    if (blank > at) end = blank;
    else if (isHighSurrogate(text.charCodeAt(end - 1))) end--;
    parts.push(text.slice(at, end));
    at = end;
    while (at < text.length && isBlank(text.charCodeAt(at))) at++;
  }
  if (at < text.length || parts.length === 0) parts.push(text.slice(at));
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

/** Neighbours joined while they fit. */
function packParts(parts: readonly string[], joint: string, limit: number): string[] {
  const packed: string[] = [];
  let current: string | undefined;
  for (const part of parts) {
    if (current !== undefined && current.length + joint.length + part.length > limit) {
      packed.push(current);
      current = part;
    } else current = current === undefined ? part : current + joint + part;
  }
  if (current !== undefined) packed.push(current);
  return packed.filter((part) => part.trim() !== '');
}

function cut(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, Math.max(0, length - 1)).trimEnd()}…`;
}
