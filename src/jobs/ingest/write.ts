/** Writes documents with their chunks and their part of the search index. */
import { deleteChunks, insertChunks } from '../../db/chunks.ts';
import { upsertDocuments } from '../../db/documents.ts';
import { asOwn } from '../../db/own-schema.ts';
import { insertBlocks, insertPart } from '../../db/search.ts';
import { ANALYSER_VERSION, analyseChunks } from '../../search/analysis.ts';
import type { Language } from '../../search/language.ts';
import { buildPart } from '../../search/part.ts';
import type { JobContext } from '../define-job.ts';
import { CHUNKER_VERSION, type Chunk } from './chunker.ts';
import { writing } from './room.ts';

/** A commit, a part of the index and a checkpoint are paid once for so many. */
const MAX_DOCUMENTS = 50;
/** Texts of one transaction. A longer document has one of its own. In UTF-16 units. */
const MAX_LENGTH = 1_000_000;

export interface DocumentToWrite {
  path: string;
  title: string;
  contentHash: string;
  byteLength: number;
  language: Language;
  chunks: readonly Chunk[];
}

/** Consecutive documents that are written together. */
export async function* batchesOf<T extends object>(
  documents: AsyncIterable<T & { chunks?: readonly Chunk[] | undefined }>,
): AsyncGenerator<T[]> {
  let batch: T[] = [];
  let length = 0;
  for await (const document of documents) {
    batch.push(document);
    for (const { content, heading } of document.chunks ?? []) length += content.length + heading.length;
    if (batch.length < MAX_DOCUMENTS && length < MAX_LENGTH) continue;
    yield batch;
    batch = [];
    length = 0;
  }
  if (batch.length > 0) yield batch;
}

/**
 * Replaces documents whole, all of them in one transaction. Its locks are taken in the order of the paths, so that
 * ingests of one collection cannot deadlock.
 *
 * @returns the revision of each that was written, by path; the others were there already
 */
export async function writeDocuments(
  documents: readonly DocumentToWrite[],
  collectionId: string,
  ctx: Pick<JobContext, 'db' | 'jobId' | 'signal' | 'transaction'>,
): Promise<Map<string, number>> {
  const leave = await writing.enter(lengthOf(documents), ctx.signal);
  try {
    return await write(documents, collectionId, ctx);
  } finally {
    leave();
  }
}

function lengthOf(documents: readonly DocumentToWrite[]): number {
  return documents.reduce(
    (sum, { chunks }) => chunks.reduce((length, { content, heading }) => length + content.length + heading.length, sum),
    0,
  );
}

async function write(
  documents: readonly DocumentToWrite[],
  collectionId: string,
  ctx: Pick<JobContext, 'db' | 'jobId' | 'transaction'>,
): Promise<Map<string, number>> {
  // Before the transaction: it takes longer than the writing, and needs no lock.
  const chunks = documents.flatMap((document) =>
    document.chunks.map((chunk) => ({ ...chunk, language: document.language })),
  );
  const analysed = await analyseChunks(asOwn(ctx.db), chunks);
  const terms = new Map(documents.map(({ path, chunks: own }) => [path, analysed.splice(0, own.length)]));

  return ctx.transaction(async (given) => {
    const trx = asOwn(given);
    const written = await upsertDocuments(
      trx,
      collectionId,
      ctx.jobId,
      documents.map((document) => ({
        ...document,
        chunkerVersion: CHUNKER_VERSION,
        analyserVersion: ANALYSER_VERSION,
        chunkCount: document.chunks.length,
      })),
    );
    if (written.length === 0) return new Map();
    await deleteChunks(
      trx,
      written.filter(({ revision }) => revision > 1).map(({ id }) => id),
    );
    const byPath = new Map(documents.map((document) => [document.path, document]));
    const rows = written.map((row) => ({ ...row, document: byPath.get(row.path) as DocumentToWrite }));
    await insertChunks(
      trx,
      rows.flatMap(({ id, document }) =>
        document.chunks.map((chunk, ordinal) => ({ documentId: id, ordinal, ...chunk })),
      ),
    );
    const part = buildPart(
      rows.map(({ path, searchNumber, document }) => ({
        number: searchNumber,
        language: document.language,
        chunks: terms.get(path) ?? [],
      })),
    );
    await insertBlocks(trx, await insertPart(trx, collectionId, part.row), part.blocks);
    return new Map(written.map(({ path, revision }) => [path, revision]));
  });
}
