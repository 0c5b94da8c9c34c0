/**
 * Search by meaning: the chunks whose vectors are nearest to a question's.
 *
 * Exact: each vector of the collection is compared, up to a number of bytes. No extension of Postgres is needed for it. In
 * a larger collection, only what another search has found is compared.
 */
import type { Kysely } from 'kysely';
import { findChunksAt } from '../db/chunks.ts';
import type { Database } from '../db/schema.ts';
import { findEmbeddingModel, measureVectors, readVectors } from '../db/vectors.ts';
import { BestPlaces } from './bm25.ts';
import type { MeasuredTerm, RetrievedChunk, Retriever } from './retriever.ts';

/** Vectors that one question reads: of 87,000 chunks at 384 dimensions, of 21,000 at 1,536. */
const MAX_VECTOR_BYTES = 32 * 1024 * 1024;
/** What is in memory of them at once, twice: Postgres sends text. */
const PAGE_BYTES = 4 * 1024 * 1024;
/** Chunks of a row of `chunk_vectors`, at most. */
export const CHUNKS_PER_ROW = 64;
/** More dimensions than any model has whose vectors are worth storing. */
export const MAX_DIMENSIONS = 8_192;

/** Of reciprocal rank fusion: how little the first places count more than those behind them. The usual value. */
const RANK_OFFSET = 60;

/** Which model has made it, and the numbers it has made. */
export interface QuestionVector {
  model: string;
  values: Float32Array;
}

/**
 * A signed byte for each number. The largest becomes 127; what a vector is multiplied by changes nothing about its angles.
 */
export function quantise(values: Float32Array): Uint8Array {
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  const factor = largest === 0 ? 0 : 127 / largest;
  return new Uint8Array(Int8Array.from(values, (value) => Math.round(value * factor)).buffer);
}

interface VectorOptions {
  /**
   * How much a place in the ranking by words counts beside one in that by meaning, 0 to 1. Default 1, whatever of the question
   * the chunk has.
   */
  trust?: (terms: readonly MeasuredTerm[]) => (chunk: RetrievedChunk) => number;
  /** Most bytes of vectors that are compared. */
  maxBytes?: number;
}

/**
 * What a retriever finds, and what is near to the question in meaning, in one order by reciprocal rank.
 *
 * @param vector `undefined`: there is none, and what the retriever finds is left as it is
 */
export function withVectors(
  base: Retriever,
  vector: Promise<QuestionVector | undefined>,
  { trust = () => () => 1, maxBytes = MAX_VECTOR_BYTES }: VectorOptions = {},
): Retriever {
  return {
    async find(db, search) {
      const [found, known] = await Promise.all([base.find(db, search), vector]);
      if (known === undefined) return found;
      const near = await findNearest(db, { ...search, vector: known, maxBytes, candidates: found.chunks });
      // Without vectors there is nothing to put in another order.
      if (near.length === 0) return found;
      return { ...found, chunks: fuse(found.chunks, near, trust(found.terms)).slice(0, search.limit) };
    },
  };
}

interface NearestSearch {
  collectionId: string;
  vector: QuestionVector;
  limit: number;
  maxBytes: number;
  /** Compared alone where all of the collection would be too much. */
  candidates: readonly RetrievedChunk[];
}

/** Best first. Nothing of a collection that has no vectors of the question's model. */
async function findNearest(db: Kysely<Database>, search: NearestSearch): Promise<RetrievedChunk[]> {
  const { collectionId, vector, limit, maxBytes, candidates } = search;
  const model = await findEmbeddingModel(db, vector.model);
  if (model === undefined || model.dimensions !== vector.values.length) return [];
  const isWhole = (await measureVectors(db, collectionId, model.id)) <= maxBytes;
  const wanted = isWhole ? undefined : new Set(candidates.map(({ documentId, ordinal }) => `${documentId} ${ordinal}`));
  const only = isWhole ? undefined : [...new Set(candidates.map(({ documentId }) => documentId))];
  const rowLimit = Math.max(1, Math.floor(PAGE_BYTES / (CHUNKS_PER_ROW * model.dimensions)));
  const rows: { documentNumber: number; firstOrdinal: number }[] = [];
  const best = new BestPlaces(limit);
  for (let after: Parameters<typeof readVectors>[1]['after']; ; ) {
    const page = await readVectors(db, { collectionId, modelId: model.id, only, after, limit: rowLimit });
    for (const { documentId, firstOrdinal, searchNumber, vectors } of page) {
      const part = rows.push({ documentNumber: searchNumber, firstOrdinal }) - 1;
      for (const [number, score] of similarities(vectors, vector.values).entries()) {
        if (wanted?.has(`${documentId} ${firstOrdinal + number}`) === false) continue;
        if (score > best.least) best.add({ part, number, score });
      }
    }
    after = page.at(-1);
    if (page.length < rowLimit) break;
  }
  const sorted = best.sorted();
  const places = sorted.map(({ part, number }) => {
    const { documentNumber, firstOrdinal } = rows[part] as (typeof rows)[number];
    return { documentNumber, ordinal: firstOrdinal + number };
  });
  const chunks = await findChunksAt(db, collectionId, places);
  return chunks.flatMap((chunk, index) =>
    chunk === undefined ? [] : [{ ...chunk, score: (sorted[index] as { score: number }).score, matched: [] }],
  );
}

/** The cosine of the angle between the question and each of these vectors; 0 for one of zeros. */
function similarities(bytes: Buffer, question: Float32Array): Float64Array {
  const dimensions = question.length;
  const vectors = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const norm = Math.sqrt(question.reduce((sum, value) => sum + value * value, 0));
  const found = new Float64Array(Math.floor(bytes.length / dimensions));
  for (let at = 0; at < found.length; at++) {
    const start = at * dimensions;
    let product = 0;
    let square = 0;
    for (let index = 0; index < dimensions; index++) {
      const value = vectors[start + index] as number;
      product += value * (question[index] as number);
      square += value * value;
    }
    found[at] = square === 0 || norm === 0 ? 0 : product / Math.sqrt(square) / norm;
  }
  return found;
}

/** A chunk that one ranking alone has counts by its place there. */
function fuse(
  found: readonly RetrievedChunk[],
  near: readonly RetrievedChunk[],
  trust: (chunk: RetrievedChunk) => number,
): RetrievedChunk[] {
  const fused = new Map<string, RetrievedChunk>();
  const add = (chunk: RetrievedChunk, place: number, weight: number): void => {
    const key = `${chunk.documentId} ${chunk.ordinal}`;
    const share = weight / (RANK_OFFSET + place + 1);
    const known = fused.get(key);
    if (known === undefined) fused.set(key, { ...chunk, score: share });
    else known.score += share;
  };
  for (const [place, chunk] of found.entries()) add(chunk, place, trust(chunk));
  for (const [place, chunk] of near.entries()) add(chunk, place, 1);
  return [...fused.values()].sort((a, b) => b.score - a.score);
}
