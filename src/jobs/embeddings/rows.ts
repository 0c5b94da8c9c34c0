/** What one request gives, as rows of `chunk_vectors`. */
import type { VectorRow } from '../../db/vectors.ts';
import { CHUNKS_PER_ROW } from '../../search/vectors.ts';

/** A chunk that lacks a vector. */
export interface Item {
  documentId: string;
  searchNumber: number;
  ordinal: number;
  text: string;
  hash: Buffer;
  /** The last of its document that lacks a vector. */
  isLast: boolean;
  /** Of an earlier version of its document that had the same text. */
  vector: Uint8Array | undefined;
}

/** What has to be asked for, once where several chunks say the same. */
export function distinctTexts(batch: readonly Item[]): Map<string, string> {
  const missing = batch.filter(({ vector }) => vector === undefined);
  return new Map(missing.map(({ hash, text }) => [hash.toString('hex'), text]));
}

/** Rows of consecutive chunks of a document. */
export function toRows(batch: readonly Item[], vectors: ReadonlyMap<string, Uint8Array>): VectorRow[] {
  const runs: Item[][] = [];
  for (const item of batch) {
    const run = runs.at(-1);
    const last = run?.at(-1);
    const continues =
      last?.documentId === item.documentId &&
      last.searchNumber === item.searchNumber &&
      last.ordinal + 1 === item.ordinal &&
      (run as Item[]).length < CHUNKS_PER_ROW;
    if (continues) (run as Item[]).push(item);
    else runs.push([item]);
  }
  return runs.map((run) => {
    const { documentId, searchNumber, ordinal } = run[0] as Item;
    return {
      documentId,
      searchNumber,
      firstOrdinal: ordinal,
      chunkCount: run.length,
      hashes: Buffer.concat(run.map(({ hash }) => hash)),
      vectors: Buffer.concat(
        run.map(({ vector, hash }) => vector ?? (vectors.get(hash.toString('hex')) as Uint8Array)),
      ),
    };
  });
}
