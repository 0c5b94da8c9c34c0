/**
 * The bytes of a search index: posting lists, packed into blocks.
 *
 * A posting says that a chunk has a term: the chunk's number in its part of the index, how often the term
 * occurs, and a code for the chunk's length, which BM25 needs. Terms are byte strings (the UTF-8 bytes of a
 * lexeme, one character a byte), so that their order is the same in JavaScript and in a `bytea` column.
 *
 *   block    entry, entry, …            sorted by term
 *   entry    shared, suffix length, suffix, postings, bytes, posting, …
 *   posting  (distance << 1 | is not once), [how often], length code
 *
 * `shared` is how many bytes a term has in common with the one before it, 0 for the first. Numbers are varints (7 bits a byte, lowest
 * first), except the two lengths of a term, how often a term occurs and the length code, which are bytes.
 */

/** A block of several terms is closed once it is longer. Each look-up reads one, so they are short. In bytes. */
const SHARED_BLOCK_BYTES = 1_200;
/** A longer list gets blocks of its own. In bytes. */
const OWN_BLOCKS_FROM_BYTES = 1_200;
/** Two fit in a page of Postgres. In bytes. */
const MAX_OWN_BLOCK_BYTES = 3_900;
/** A longer term is cut. In bytes. */
const MAX_TERM_BYTES = 120;
const MAX_FREQUENCY = 255;

/** A term's postings in one part: parallel arrays, sorted by number. */
export interface PostingList {
  /** Numbers of chunks in the part, from 0. */
  numbers: Int32Array;
  frequencies: Uint8Array;
  /** See `lengthCode`. */
  lengths: Uint8Array;
}

export interface Block {
  firstTerm: Buffer;
  /** Equal to `firstTerm` where the block belongs to one term alone. */
  lastTerm: Buffer;
  /** Counts the blocks of one term, from 0. */
  place: number;
  data: Buffer;
}

export interface BlockEntry extends PostingList {
  term: string;
}

/** The byte string of a lexeme. */
export function termOf(lexeme: string): string {
  // All of one script, as most are: the text is its own byte string.
  if (lexeme.length <= MAX_TERM_BYTES && /^[\0-\x7f]*$/.test(lexeme)) return lexeme;
  return Buffer.from(lexeme).toString('latin1').slice(0, MAX_TERM_BYTES);
}

export function termBytes(term: string): Buffer {
  return Buffer.from(term, 'latin1');
}

/** A chunk's length in words as a byte, in steps of 4.4 %. */
export function lengthCode(words: number): number {
  return Math.min(255, Math.round(16 * Math.log2(Math.max(1, words))));
}

/** The length that a code stands for, in words. */
export function lengthOfCode(code: number): number {
  return 2 ** (code / 16);
}

/** Takes terms in order and hands on full blocks. */
export class BlockWriter {
  readonly #emit: (block: Block) => void;
  #buffer = Buffer.allocUnsafe(8_192);
  #length = 0;
  #first: string | undefined;
  #last = '';

  constructor(emit: (block: Block) => void) {
    this.#emit = emit;
  }

  /** @param term greater than all before it */
  add(term: string, list: PostingList): void {
    const bytes = encodePostings(list, 0, list.numbers.length);
    if (bytes.length > OWN_BLOCKS_FROM_BYTES) {
      this.flush();
      this.#addOwnBlocks(term, list);
      return;
    }
    this.#first ??= term;
    this.#append(term, list.numbers.length, bytes);
    if (this.#length > SHARED_BLOCK_BYTES) this.flush();
  }

  /** Hands on what has been added. */
  flush(): void {
    if (this.#first === undefined) return;
    this.#emitBlock(this.#first, 0);
    this.#first = undefined;
  }

  #addOwnBlocks(term: string, list: PostingList): void {
    // At most seven bytes a posting, and 5 + 5 + 2 for the head of the entry.
    const room = MAX_OWN_BLOCK_BYTES - MAX_TERM_BYTES - 12;
    let place = 0;
    for (let from = 0; from < list.numbers.length; ) {
      let to = from;
      let bytes = 0;
      for (let before = -1; to < list.numbers.length; to++) {
        const size = postingSize(list, to, before);
        if (bytes + size > room) break;
        bytes += size;
        before = list.numbers[to] as number;
      }
      this.#append(term, to - from, encodePostings(list, from, to));
      this.#emitBlock(term, place++);
      from = to;
    }
  }

  #append(term: string, count: number, postings: Buffer): void {
    const most = this.#length + term.length + postings.length + 12;
    if (most > this.#buffer.length) this.#buffer = Buffer.concat([this.#buffer], most * 2);
    const shared = this.#length === 0 ? 0 : sharedLength(this.#last, term);
    let at = this.#length;
    this.#buffer[at++] = shared;
    this.#buffer[at++] = term.length - shared;
    at += this.#buffer.write(term.slice(shared), at, 'latin1');
    at = writeVarint(this.#buffer, at, count);
    at = writeVarint(this.#buffer, at, postings.length);
    at += postings.copy(this.#buffer, at);
    this.#length = at;
    this.#last = term;
  }

  #emitBlock(first: string, place: number): void {
    this.#emit({
      firstTerm: termBytes(first),
      lastTerm: termBytes(this.#last),
      place,
      data: Buffer.from(this.#buffer.subarray(0, this.#length)),
    });
    this.#length = 0;
  }
}

/** The entries of a block, in order; all, or those of some terms. */
export function readEntries(data: Buffer, accepts: (term: string) => boolean = () => true): BlockEntry[] {
  const entries: BlockEntry[] = [];
  let term = '';
  for (let at = 0; at < data.length; ) {
    const shared = data[at] as number;
    const suffix = data[at + 1] as number;
    term = term.slice(0, shared) + data.toString('latin1', at + 2, at + 2 + suffix);
    const head = readHead(data, at + 2 + suffix);
    if (accepts(term)) entries.push({ term, ...decodePostings(data, head.at, head.count) });
    at = head.at + head.bytes;
  }
  return entries;
}

/** The postings of one term in a block that may have it. */
export function findPostings(data: Buffer, term: Buffer): PostingList | undefined {
  // How many bytes of the term the entry before has.
  let known = 0;
  for (let at = 0; at < data.length; ) {
    const shared = data[at] as number;
    const suffix = data[at + 1] as number;
    // An entry that shares less with the one before it than the term does is greater than the term.
    if (at > 0 && shared < known) return undefined;
    const head = readHead(data, at + 2 + suffix);
    if (shared === known) {
      let equal = 0;
      while (equal < suffix && known + equal < term.length && data[at + 2 + equal] === term[known + equal]) equal++;
      if (equal === suffix && known + equal === term.length) return decodePostings(data, head.at, head.count);
      const [own, wanted] = [equal === suffix ? -1 : data[at + 2 + equal], known + equal];
      if (own !== -1 && (wanted === term.length || (own as number) > (term[wanted] as number))) return undefined;
      known += equal;
    }
    at = head.at + head.bytes;
  }
  return undefined;
}

function readHead(data: Buffer, from: number): { at: number; count: number; bytes: number } {
  const cursor = { at: from };
  const count = readVarint(data, cursor);
  const bytes = readVarint(data, cursor);
  return { at: cursor.at, count, bytes };
}

function postingSize(list: PostingList, index: number, before: number): number {
  const distance = (list.numbers[index] as number) - before;
  const often = (list.frequencies[index] as number) > 1;
  // Two bits of the distance's first byte are not its own: the mark, and that more follows.
  return varintSize(distance * 2) + (often ? 2 : 1);
}

function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 128; rest /= 128) size++;
  return size;
}

function encodePostings(list: PostingList, from: number, to: number): Buffer {
  const bytes = Buffer.allocUnsafe((to - from) * 7);
  let at = 0;
  let before = -1;
  for (let index = from; index < to; index++) {
    const number = list.numbers[index] as number;
    const frequency = list.frequencies[index] as number;
    at = writeVarint(bytes, at, (number - before) * 2 + (frequency > 1 ? 1 : 0));
    if (frequency > 1) bytes[at++] = frequency;
    bytes[at++] = list.lengths[index] as number;
    before = number;
  }
  return bytes.subarray(0, at);
}

function decodePostings(data: Buffer, from: number, count: number): PostingList {
  const numbers = new Int32Array(count);
  const frequencies = new Uint8Array(count);
  const lengths = new Uint8Array(count);
  let at = from;
  let number = -1;
  for (let index = 0; index < count; index++) {
    let byte = data[at++] as number;
    const often = (byte & 1) === 1;
    let distance = (byte & 0x7f) >> 1;
    for (let shift = 6; byte >= 128; shift += 7) {
      byte = data[at++] as number;
      distance += (byte & 0x7f) * 2 ** shift;
    }
    number += distance;
    numbers[index] = number;
    frequencies[index] = often ? (data[at++] as number) : 1;
    lengths[index] = data[at++] as number;
  }
  return { numbers, frequencies, lengths };
}

/** As a posting keeps it. */
export function boundedFrequency(frequency: number): number {
  return Math.min(MAX_FREQUENCY, frequency);
}

function sharedLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a.charCodeAt(length) === b.charCodeAt(length)) length++;
  return length;
}

/** @returns where the next byte goes */
export function writeVarint(bytes: Buffer, at: number, value: number): number {
  let place = at;
  let rest = value;
  while (rest >= 128) {
    bytes[place++] = (rest % 128) | 128;
    rest = Math.floor(rest / 128);
  }
  bytes[place++] = rest;
  return place;
}

/** @param cursor is moved behind the number */
export function readVarint(bytes: Buffer, cursor: { at: number }): number {
  let value = 0;
  for (let factor = 1; ; factor *= 128) {
    const byte = bytes[cursor.at++] as number;
    value += (byte & 127) * factor;
    if (byte < 128) return value;
  }
}
