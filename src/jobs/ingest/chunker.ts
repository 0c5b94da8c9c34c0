/**
 * Blocks into chunks: along headings first, then along blocks, and inside a block only when
 * it is longer than a chunk may be.
 */
import type { Block, ContentBlock, ParsedDocument, Place } from './blocks.ts';
import { fenced, MAX_CHUNK_LENGTH, splitBlock, TARGET_CHUNK_LENGTH } from './split.ts';

/** Raise it with every change that makes other chunks of the same content: documents are then chunked anew. */
export const CHUNKER_VERSION = 3;

const HEADING_SEPARATOR = ' > ';
/** Headings are indexed with every chunk below them; a path longer than this loses its middle. */
const MAX_HEADING_PATH_LENGTH = 800;

/** `start` and `end` are of what it was made from; `page` is where it begins. */
export interface Chunk extends Place {
  /** The title and the headings above it, outermost first. */
  heading: string;
  /** What stands there, with a fence or a header around each part of a long block. */
  content: string;
}

export function chunkDocument(document: Pick<ParsedDocument, 'title' | 'blocks'>): Chunk[] {
  const chunks: Chunk[] = [];
  const path: { level: number; text: string }[] = [];
  let section: Piece[] = [];
  // A heading's own words are found through the chunks below it; one with none below stands for itself.
  let bare: Extract<Block, { kind: 'heading' }> | undefined;

  const endSection = (nextLevel: number): void => {
    const heading = headingPath(
      document.title,
      path.map(({ text }) => text),
    );
    if (section.length > 0) {
      for (const packed of pack(section)) chunks.push({ heading, ...packed });
    } else if (bare !== undefined && nextLevel <= (path.at(-1)?.level ?? 0)) {
      chunks.push({ heading, content: bare.text, ...placeOf(bare) });
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
    bare = block;
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

interface Piece extends Place {
  kind: ContentBlock['kind'];
  /** At most `MAX_CHUNK_LENGTH`. */
  text: string;
  /** Continues from the piece before: joined by this instead of a blank line. */
  joint?: string;
}

/** Fills chunks up to the target; code or a list that the text announces ("like so:") may go over it. */
function pack(pieces: readonly Piece[]): Omit<Chunk, 'heading'>[] {
  const packed: Omit<Chunk, 'heading'>[] = [];
  let last: Piece | undefined;
  for (const piece of pieces) {
    const current = packed.at(-1);
    const joint = piece.joint ?? '\n\n';
    const length = current === undefined ? 0 : current.content.length + joint.length + piece.text.length;
    const announced = last?.kind === 'text' && piece.kind !== 'text' && /:\s*$/.test(last.text);
    if (current === undefined || length > (announced ? MAX_CHUNK_LENGTH : TARGET_CHUNK_LENGTH)) {
      packed.push({ content: piece.text, ...placeOf(piece) });
    } else {
      current.content += joint + piece.text;
      current.start = Math.min(current.start, piece.start);
      current.end = Math.max(current.end, piece.end);
    }
    last = piece;
  }
  return packed;
}

function toPieces(block: ContentBlock): Piece[] {
  const { kind, text } = block;
  const whole = block.kind === 'code' && block.fence !== undefined ? fenced(text, block.fence) : text;
  if (whole.length <= MAX_CHUNK_LENGTH) return [{ kind, text: whole, ...placeOf(block) }];
  const parts = splitBlock(block);
  // Of a block whose text is not the document's, parts are placed where the block is.
  const isVerbatim = block.end - block.start === text.length;
  return parts.map((part, at) => {
    const gap = text.slice(parts[at - 1]?.to ?? part.from, part.from);
    const place = isVerbatim ? { start: block.start + part.from, end: block.start + part.to } : {};
    return { kind, text: part.text, joint: gap.trim() === '' && gap !== '' ? gap : '\n', ...placeOf(block), ...place };
  });
}

function placeOf({ start, end, page }: Place): Place {
  return { start, end, ...(page === undefined ? {} : { page }) };
}

function cut(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, Math.max(0, length - 1)).trimEnd()}…`;
}
