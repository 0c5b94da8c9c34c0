/** A collection that is asked: its chunks, as `ingest` has made them. */
import type { Db } from '../../src/db/client.ts';
import type { Embedder } from '../../src/jobs/embeddings/embedder.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import type { Jobs } from './jobs.ts';
import type { Language, Place, Question } from './question-set.ts';

export interface Collection extends Searcher {
  name: string;
  id: string;
  /** Of all its documents; `undefined` where they are of several. */
  language: Language | undefined;
  chunks: readonly Chunk[];
}

/** A fleet that ingests and answers. */
export interface Searcher {
  db: Db;
  fleet: Fleet;
  jobs: Jobs;
  /** Makes vectors of chunks and questions, if anything does. */
  embedder: Embedder | undefined;
}

export interface Chunk extends Place {
  content: string;
}

/** What finds passages for a question. */
export interface Ranker {
  name: string;
  /** Makes its index. @returns the places that answer best, the best first */
  open(collection: Collection): Promise<(question: Question) => Promise<readonly Place[]> | readonly Place[]>;
}

/** As many as an answer rests on by default. */
export const LIMIT = 6;

export async function findCollection(
  searcher: Searcher,
  name: string,
  language: Language | undefined,
): Promise<Collection> {
  const { db } = searcher;
  const { id } = await db.kysely
    .selectFrom('collections')
    .select('id')
    .where('name', '=', name)
    .executeTakeFirstOrThrow();
  const rows = await db.kysely
    .selectFrom('chunks')
    .innerJoin('documents', 'documents.id', 'chunks.document_id')
    .select(['documents.path', 'chunks.heading', 'chunks.content'])
    .where('documents.collection_id', '=', id)
    .orderBy('documents.path')
    .orderBy('chunks.ordinal')
    .execute();
  return { ...searcher, name, id, language, chunks: rows.map((row) => ({ ...toPlace(row), content: row.content })) };
}

/** Of a chunk's headings, its own is the last. */
export function toPlace({ path, heading }: Place): Place {
  return { path, heading: heading.slice(heading.lastIndexOf(' > ') + 1).replace(/^> /, '') };
}
