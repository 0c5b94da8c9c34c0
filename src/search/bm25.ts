/**
 * BM25 over posting lists: each term counts by how rare it is in the collection, and by how often it occurs in a chunk
 * of that length. Exact: every posting of every term is read, and nothing is left out but removed documents.
 */

import type { PartRow } from '../db/search.ts';
import { type PartDocument, readDocuments } from './part.ts';
import { lengthOfCode, type PostingList } from './postings.ts';

/** How soon more occurrences of a term stop to count. The usual value. */
const K1 = 1.2;
/** How much a long chunk's occurrences count less: not at 0, in proportion at 1. The usual value. */
const B = 0.75;

export interface LoadedPart {
  id: number;
  documents: readonly PartDocument[];
  /** Of each document, the number of its first chunk. */
  starts: Int32Array;
  chunkCount: number;
  /** Bit set of chunks whose document has been removed; `undefined` when none has. */
  removed: Uint8Array | undefined;
}

interface Statistics {
  chunks: number;
  words: number;
}

interface RankedTerm {
  /** Multiplies what BM25 gives. */
  weight: number;
  /** Of each part, in the order of the parts. */
  lists: readonly (PostingList | undefined)[];
}

interface RankedPlace {
  documentNumber: number;
  ordinal: number;
  score: number;
  /** Which terms it has, as indexes. */
  matched: number[];
}

/** Parts as a search reads them, and the collection's size without what has been removed. */
export function loadParts(
  rows: readonly PartRow[],
  removals: readonly number[],
): { parts: LoadedPart[]; statistics: Statistics } {
  const gone = new Set(removals);
  const statistics = { chunks: 0, words: 0 };
  const parts = rows.map((row): LoadedPart => {
    const documents = readDocuments(row.documents);
    let removed: Uint8Array | undefined;
    const starts = new Int32Array(documents.length);
    let first = 0;
    statistics.chunks += row.chunkCount;
    statistics.words += row.wordCount;
    for (const [index, { number, chunkCount, wordCount }] of documents.entries()) {
      starts[index] = first;
      if (gone.has(number)) {
        removed ??= new Uint8Array(row.chunkCount);
        removed.fill(1, first, first + chunkCount);
        statistics.chunks -= chunkCount;
        statistics.words -= wordCount;
      }
      first += chunkCount;
    }
    return { id: row.id, documents, starts, chunkCount: row.chunkCount, removed };
  });
  return { parts, statistics };
}

/** In how many chunks a term occurs. */
export function countMatches(parts: readonly LoadedPart[], lists: readonly (PostingList | undefined)[]): number {
  let count = 0;
  for (const [index, list] of lists.entries()) {
    if (list === undefined) continue;
    const removed = parts[index]?.removed;
    if (removed === undefined) count += list.numbers.length;
    else for (const number of list.numbers) count += removed[number] === 1 ? 0 : 1;
  }
  return count;
}

export function inverseFrequency(matches: number, chunks: number): number {
  return Math.log(1 + (chunks - matches + 0.5) / (matches + 0.5));
}

/** The `limit` best chunks, best first; those that are equal in the order of their documents. */
export function rankByBm25(
  parts: readonly LoadedPart[],
  statistics: Statistics,
  terms: readonly RankedTerm[],
  limit: number,
): RankedPlace[] {
  const damping = lengthDamping(statistics);
  const best = new BestPlaces(limit);
  for (const [index, part] of parts.entries()) {
    const scores = new Float32Array(part.chunkCount);
    for (const { weight, lists } of terms) {
      const list = lists[index];
      if (list === undefined) continue;
      const { numbers, frequencies, lengths } = list;
      const most = weight * (K1 + 1);
      for (let at = 0; at < numbers.length; at++) {
        const frequency = frequencies[at] as number;
        const number = numbers[at] as number;
        scores[number] =
          (scores[number] as number) + (most * frequency) / (frequency + (damping[lengths[at] as number] as number));
      }
    }
    const { removed } = part;
    for (let number = 0; number < scores.length; number++) {
      const score = scores[number] as number;
      if (score > best.least && removed?.[number] !== 1) best.add({ part: index, number, score });
    }
  }
  return best.sorted().map(({ part, number, score }) => ({
    ...locate(parts[part] as LoadedPart, number),
    score,
    matched: terms.flatMap(({ lists }, index) => (has(lists[part], number) ? [index] : [])),
  }));
}

/** What BM25 adds to a frequency in its denominator, by length code. */
function lengthDamping({ chunks, words }: Statistics): Float64Array {
  const average = Math.max(1, words / Math.max(1, chunks));
  return Float64Array.from({ length: 256 }, (_, code) => K1 * (1 - B + (B * lengthOfCode(code)) / average));
}

interface Place {
  part: number;
  number: number;
  score: number;
}

/** A heap whose root is the worst of the best. */
export class BestPlaces {
  readonly #limit: number;
  readonly #heap: Place[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** A place must score more to be taken. */
  get least(): number {
    return this.#heap.length < this.#limit ? 0 : (this.#heap[0] as Place).score;
  }

  add(place: Place): void {
    const heap = this.#heap;
    if (heap.length < this.#limit) {
      let at = heap.push(place) - 1;
      while (at > 0) {
        const above = (at - 1) >> 1;
        if ((heap[above] as Place).score <= place.score) break;
        heap[at] = heap[above] as Place;
        at = above;
      }
      heap[at] = place;
      return;
    }
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && (heap[below + 1] as Place).score < (heap[below] as Place).score) below++;
      if ((heap[below] as Place).score >= place.score) break;
      heap[at] = heap[below] as Place;
      at = below;
    }
    heap[at] = place;
  }

  sorted(): Place[] {
    return this.#heap.sort((a, b) => b.score - a.score || a.part - b.part || a.number - b.number);
  }
}

function locate({ documents, starts }: LoadedPart, number: number): { documentNumber: number; ordinal: number } {
  const index = lastAtMost(starts, number);
  return { documentNumber: (documents[index] as PartDocument).number, ordinal: number - (starts[index] as number) };
}

function has(list: PostingList | undefined, number: number): boolean {
  return list !== undefined && list.numbers[lastAtMost(list.numbers, number)] === number;
}

/** Index of the last of these sorted numbers that is no greater; -1 when all are. */
function lastAtMost(sorted: Int32Array, number: number): number {
  let [low, high] = [0, sorted.length - 1];
  while (low <= high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] as number) <= number) low = middle + 1;
    else high = middle - 1;
  }
  return high;
}
