/** The `ingest` job: documents into a searchable collection. */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';
import {
  countMissingDocuments,
  type DocumentState,
  deleteMissingDocuments,
  findDocumentStates,
  upsertCollection,
} from '../../db/documents.ts';
import { asOwn } from '../../db/own-schema.ts';
import { NonRetryableError } from '../../errors.ts';
import { ANALYSER_VERSION } from '../../search/analysis.ts';
import { detectLanguage, type Language } from '../../search/language.ts';
import { mergeParts } from '../../search/merge.ts';
import { defineJob, type JobContext, type JobDefinition } from '../define-job.ts';
import { CHUNKER_VERSION, type Chunk, chunkDocument } from './chunker.ts';
import { checkPath, checkText, collectionName } from './input-text.ts';
import { findParser } from './parsers.ts';
import { batchesOf, type DocumentToWrite, writeDocuments } from './write.ts';

const MAX_DOCUMENTS = 10_000;
/** Far above any text somebody wrote; a body limit usually comes first. In UTF-16 units. */
const MAX_CONTENT_LENGTH = 16 * 1024 * 1024;

const documentInput = z.object({
  /** What the document is called in sources; the job reads no file. */
  path: z.string().superRefine(checkPath),
  content: z.string().max(MAX_CONTENT_LENGTH),
});

export const ingestInput = z
  .object({
    collection: collectionName,
    documents: z.array(documentInput).min(1, 'has no documents; at least one is needed').max(MAX_DOCUMENTS),
    /** Also removes documents of the collection that are not in this list. */
    removeMissing: z.boolean().optional(),
  })
  .superRefine((input, ctx) => {
    const seen = new Map<string, number>();
    for (const [index, { path, content }] of input.documents.entries()) {
      checkText(content, (message) =>
        ctx.addIssue({
          code: 'custom',
          path: ['documents', index, 'content'],
          message: `${JSON.stringify(path)} ${message}`,
        }),
      );
      const first = seen.get(path);
      if (first === undefined) seen.set(path, index);
      else
        ctx.addIssue({
          code: 'custom',
          path: ['documents', index, 'path'],
          message: `is the path of documents[${first}] too`,
        });
    }
  });

const ingestOutput = z.object({
  collection: z.string(),
  added: z.number(),
  updated: z.number(),
  unchanged: z.number(),
  removed: z.number(),
  /** Of all documents given. */
  chunks: z.number(),
});

type IngestInput = z.output<typeof ingestInput>;
type IngestResult = z.output<typeof ingestOutput>;
type DocumentStatus = 'added' | 'updated' | 'unchanged';
type IngestEvent = { type: 'document'; path: string; status: DocumentStatus; chunks: number };

/** Where an attempt stands: `next` is the first document not done. `removed` is there once removal has begun. */
const checkpointSchema = z.object({
  next: z.number().int().min(0),
  added: z.number(),
  updated: z.number(),
  unchanged: z.number(),
  chunks: z.number(),
  removed: z.number().optional(),
});
type Checkpoint = z.output<typeof checkpointSchema>;

export function createIngestJob(): JobDefinition<IngestInput, IngestResult, IngestEvent> {
  return defineJob<typeof ingestInput, IngestResult, IngestEvent>({
    name: 'ingest',
    description: 'Puts documents into a searchable collection; unchanged ones are skipped.',
    input: ingestInput,
    output: ingestOutput,
    run: ingest,
  });
}

/**
 * Every document is read and chunked before the first is written, so a bad one fails the
 * job with nothing half done. They are then written in batches, each in one transaction.
 */
async function ingest(input: IngestInput, ctx: JobContext<IngestEvent>): Promise<IngestResult> {
  const collectionId = await ctx.transaction((trx) => upsertCollection(asOwn(trx), ctx.tenant, input.collection));
  const paths = input.documents.map(({ path }) => path);
  const states = await findDocumentStates(asOwn(ctx.db), collectionId, paths);
  const state = readCheckpoint(ctx.resumedFrom, input.documents.length);
  const prepared = await prepareAll(input, state.next, states, ctx.signal);

  const total = input.documents.length;
  for (const batch of batchesOf(prepared)) {
    ctx.signal.throwIfAborted();
    const statuses = await writeBatch(batch, collectionId, ctx);
    for (const [index, document] of batch.entries()) {
      const status = statuses[index] as DocumentStatus;
      state[status]++;
      state.chunks += document.chunkCount;
      state.next++;
      await ctx.emit({ type: 'document', path: document.path, status, chunks: document.chunkCount });
      await ctx.progress({ done: state.next, total, message: document.path });
    }
    if (state.next < total) await ctx.checkpoint({ ...state });
  }

  const removed = input.removeMissing === true ? await removeMissing(collectionId, paths, state, ctx) : 0;
  ctx.log.info(
    { collection: input.collection, added: state.added, updated: state.updated, unchanged: state.unchanged, removed },
    'collection ingested',
  );
  return {
    collection: input.collection,
    added: state.added,
    updated: state.updated,
    unchanged: state.unchanged,
    removed,
    chunks: state.chunks,
  };
}

interface PreparedDocument {
  path: string;
  title: string;
  contentHash: string;
  byteLength: number;
  language: Language;
  chunkCount: number;
  /** `undefined`: the collection has this version already. */
  chunks: Chunk[] | undefined;
  known: DocumentState | undefined;
}

async function prepareAll(
  input: IngestInput,
  from: number,
  states: ReadonlyMap<string, DocumentState>,
  signal: AbortSignal,
): Promise<PreparedDocument[]> {
  const prepared: PreparedDocument[] = [];
  for (const { path, content } of input.documents.slice(from)) {
    // Chunking is work of the CPU: other jobs' timers and heartbeats get their turn in between.
    await setImmediate();
    signal.throwIfAborted();
    prepared.push(await prepare(path, content, states.get(path)));
  }
  return prepared;
}

async function prepare(path: string, content: string, known: DocumentState | undefined): Promise<PreparedDocument> {
  const contentHash = createHash('sha256').update(content).digest('hex');
  const byteLength = Buffer.byteLength(content);
  if (
    known !== undefined &&
    known.contentHash === contentHash &&
    known.chunkerVersion === CHUNKER_VERSION &&
    known.analyserVersion === ANALYSER_VERSION
  ) {
    return {
      path,
      title: '',
      contentHash,
      byteLength,
      // Nothing of it is written.
      language: 'none',
      chunkCount: known.chunkCount,
      chunks: undefined,
      known,
    };
  }
  const parsed = findParser(path).parse(content, path);
  const chunks = chunkDocument(parsed);
  if (chunks.length === 0) {
    throw new NonRetryableError(`${JSON.stringify(path)} has no text in it; nothing was ingested`, {
      code: 'FILE_EMPTY',
      details: { path },
    });
  }
  const language = await detectLanguage(content);
  return { path, title: parsed.title, contentHash, byteLength, language, chunkCount: chunks.length, chunks, known };
}

async function writeBatch(
  batch: readonly PreparedDocument[],
  collectionId: string,
  ctx: JobContext<IngestEvent>,
): Promise<DocumentStatus[]> {
  const changed = batch.filter(
    (document): document is PreparedDocument & DocumentToWrite => document.chunks !== undefined,
  );
  const revisions = changed.length === 0 ? new Map<string, number>() : await writeDocuments(changed, collectionId, ctx);
  if (revisions.size > 0) await mergeParts(asOwn(ctx.db), collectionId);
  return batch.map(({ path, chunks, known }) => {
    const revision = revisions.get(path);
    if (revision !== undefined) return revision === 1 ? 'added' : 'updated';
    // An attempt before this one wrote it and ended before its checkpoint: it is this job's doing.
    if (chunks !== undefined || known?.jobId !== ctx.jobId) return 'unchanged';
    return known.revision === 1 ? 'added' : 'updated';
  });
}

/** Counted and checkpointed first: an attempt that ends between removal and result would find nothing left to count. */
async function removeMissing(
  collectionId: string,
  paths: readonly string[],
  state: Checkpoint,
  ctx: JobContext<IngestEvent>,
): Promise<number> {
  ctx.signal.throwIfAborted();
  const planned = state.removed;
  if (planned === undefined) {
    state.removed = await countMissingDocuments(asOwn(ctx.db), collectionId, paths);
    await ctx.checkpoint({ ...state });
  }
  const removed = await ctx.transaction((trx) => deleteMissingDocuments(asOwn(trx), collectionId, paths));
  if (removed.length > 0) await mergeParts(asOwn(ctx.db), collectionId);
  return Math.max(removed.length, planned ?? 0);
}

/** A checkpoint that does not fit (an older build's) is left aside: what it had done is found unchanged. */
function readCheckpoint(value: unknown, total: number): Checkpoint {
  const parsed = checkpointSchema.safeParse(value);
  if (parsed.success && parsed.data.next <= total) return parsed.data;
  return { next: 0, added: 0, updated: 0, unchanged: 0, chunks: 0 };
}
