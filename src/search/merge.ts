/**
 * Merging parts, so that a search reads few of them.
 *
 * Parts of about the same size are merged once there are eight of them, so that each posting is written again only when
 * its part has become eight times as large. A merge leaves removed documents out. It changes nothing that a search
 * finds, needs no job, and is one transaction: a process that dies in it has done nothing.
 */
import type { Kysely, Transaction } from 'kysely';
import type { Database } from '../db/schema.ts';
import {
  type BlockRow,
  deleteParts,
  findPartSizes,
  findRemovals,
  insertBlocks,
  insertPart,
  lockParts,
  type PartRow,
  type PartSize,
  readBlocks,
} from '../db/search.ts';
import { concatenate, describePart, readDocuments } from './part.ts';
import { type BlockEntry, BlockWriter, type PostingList, readEntries } from './postings.ts';

const PARTS_OF_A_MERGE = 8;
/** A merged part has at most eight times as many. Beyond that another merge saves little and takes minutes. */
const LARGEST_MERGED_CHUNKS = 500_000;
/** Removed documents cost a search room and time; with a larger share of them all parts are merged. */
const MOST_REMOVED_SHARE = 0.25;
/** So few are not worth it. */
const FEW_REMOVALS = 200;
const BLOCKS_PER_READ = 64;
const BLOCKS_PER_WRITE = 250;

/** Merges what there is to merge. Others may do so at the same time. */
export async function mergeParts(db: Kysely<Database>, collectionId: string): Promise<void> {
  for (;;) {
    const { parts, removals } = await findPartSizes(db, collectionId);
    const ids = chooseParts(parts, removals);
    if (ids.length === 0) return;
    const merged = await db.transaction().execute((trx) => mergeLocked(trx, collectionId, ids));
    if (!merged) return;
  }
}

/** Which parts should become one: none most of the time. */
export function chooseParts(parts: readonly PartSize[], removals: number): number[] {
  const documents = parts.reduce((sum, { documentCount }) => sum + documentCount, 0);
  const mergeable = parts.filter(({ chunkCount }) => chunkCount < LARGEST_MERGED_CHUNKS);
  if (removals > FEW_REMOVALS && removals > documents * MOST_REMOVED_SHARE) return mergeable.map(({ id }) => id);
  const tiers = new Map<number, number[]>();
  for (const { id, chunkCount } of mergeable) {
    const tier = Math.floor(Math.log2(Math.max(1, chunkCount)) / 3);
    tiers.set(tier, [...(tiers.get(tier) ?? []), id]);
  }
  return [...tiers.values()].find((ids) => ids.length >= PARTS_OF_A_MERGE) ?? [];
}

/** @returns false when another process has some of them */
async function mergeLocked(trx: Transaction<Database>, collectionId: string, ids: readonly number[]): Promise<boolean> {
  const parts = await lockParts(trx, collectionId, ids);
  if (parts.length < ids.length) return false;
  const removed = new Set(await findRemovals(trx, collectionId));
  const sources = renumber(parts, removed);
  const documents = sources.flatMap((source) => source.kept);
  if (documents.length > 0) {
    const row = describePart(
      documents,
      parts.flatMap(({ languages }) => languages),
    );
    const partId = await insertPart(trx, collectionId, row);
    await writeMerged(trx, partId, sources);
  }
  await deleteParts(
    trx,
    collectionId,
    ids,
    sources.flatMap((source) => source.removed),
  );
  return true;
}

interface MergeSource {
  id: number;
  kept: ReturnType<typeof readDocuments>;
  /** Numbers of documents that are left out. */
  removed: number[];
  /** Of each chunk in this part, its number in the merged one; -1 when it is left out. */
  numbers: Int32Array;
}

function renumber(parts: readonly PartRow[], removed: ReadonlySet<number>): MergeSource[] {
  let next = 0;
  return parts.map((part): MergeSource => {
    const documents = readDocuments(part.documents);
    const numbers = new Int32Array(part.chunkCount);
    let chunk = 0;
    for (const { number, chunkCount } of documents) {
      const gone = removed.has(number);
      for (let n = 0; n < chunkCount; n++) numbers[chunk++] = gone ? -1 : next++;
    }
    return {
      id: part.id,
      kept: documents.filter(({ number }) => !removed.has(number)),
      removed: documents.map(({ number }) => number).filter((number) => removed.has(number)),
      numbers,
    };
  });
}

async function writeMerged(trx: Transaction<Database>, partId: number, sources: readonly MergeSource[]): Promise<void> {
  let blocks: BlockRow[] = [];
  const writer = new BlockWriter((block) => blocks.push(block));
  const cursors = sources.map((source) => new PartCursor(trx, source));
  for (;;) {
    let term: string | undefined;
    for (const cursor of cursors) {
      const entry = cursor.ready ? cursor.current : await cursor.load();
      if (entry !== undefined && (term === undefined || entry.term < term)) term = entry.term;
    }
    if (term === undefined) break;
    const lists: PostingList[] = [];
    for (const cursor of cursors) {
      while (cursor.current?.term === term) {
        const list = renumbered(cursor.current, cursor.numbers);
        if (list.numbers.length > 0) lists.push(list);
        cursor.advance();
        if (!cursor.ready) await cursor.load();
      }
    }
    if (lists.length > 0) writer.add(term, concatenate(lists));
    if (blocks.length >= BLOCKS_PER_WRITE) {
      await insertBlocks(trx, partId, blocks);
      blocks = [];
    }
  }
  writer.flush();
  await insertBlocks(trx, partId, blocks);
}

/** Goes through the entries of a part. */
class PartCursor {
  readonly numbers: Int32Array;
  /** False when the next entry must be loaded first. */
  ready = false;
  current: BlockEntry | undefined;
  readonly #trx: Transaction<Database>;
  readonly #partId: number;
  #after: BlockRow | undefined;
  #blocks: BlockRow[] = [];
  #entries: BlockEntry[] = [];
  #place = 0;

  constructor(trx: Transaction<Database>, source: MergeSource) {
    this.#trx = trx;
    this.#partId = source.id;
    this.numbers = source.numbers;
  }

  advance(): void {
    this.current = this.#entries[this.#place++];
    this.ready = this.current !== undefined;
  }

  /** @returns undefined at the end */
  async load(): Promise<BlockEntry | undefined> {
    if (this.#blocks.length === 0)
      this.#blocks = await readBlocks(this.#trx, this.#partId, this.#after, BLOCKS_PER_READ);
    const block = this.#blocks.shift();
    this.#after = block ?? this.#after;
    this.#entries = block === undefined ? [] : readEntries(block.data);
    this.#place = 0;
    this.advance();
    if (block === undefined) this.ready = true;
    return this.current;
  }
}

function renumbered(list: PostingList, numbers: Int32Array): PostingList {
  const count = list.numbers.length;
  const result = { numbers: new Int32Array(count), frequencies: new Uint8Array(count), lengths: new Uint8Array(count) };
  let at = 0;
  for (let index = 0; index < count; index++) {
    const number = numbers[list.numbers[index] as number] as number;
    if (number < 0) continue;
    result.numbers[at] = number;
    result.frequencies[at] = list.frequencies[index] as number;
    result.lengths[at++] = list.lengths[index] as number;
  }
  return {
    numbers: result.numbers.subarray(0, at),
    frequencies: result.frequencies.subarray(0, at),
    lengths: result.lengths.subarray(0, at),
  };
}
