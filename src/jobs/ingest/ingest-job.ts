/** The `ingest` job: documents into a searchable collection. */
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';
import {
  countMissingDocuments,
  type DocumentState,
  deleteMissingDocuments,
  findCollectionLanguage,
  findDocumentStates,
  upsertCollection,
} from '../../db/documents.ts';
import { asOwn } from '../../db/own-schema.ts';
import { DOCUMENT_ERROR_CODES, DocumentError, NonRetryableError } from '../../errors.ts';
import { ANALYSER_VERSION } from '../../search/analysis.ts';
import { detectLanguage, type Language } from '../../search/language.ts';
import { mergeParts } from '../../search/merge.ts';
import { defineJob, type JobContext, type JobDefinition } from '../define-job.ts';
import { type EmbeddingEvent, embedCollection } from '../embeddings/embed-collection.ts';
import type { Embedder } from '../embeddings/embedder.ts';
import { CHUNKER_VERSION, type Chunk, chunkDocument } from './chunker.ts';
import { collectionName } from './input-text.ts';
import { type DocumentInput, documentInput, openDocument } from './inputs.ts';
import type { DocumentLimits } from './parse/limits.ts';
import { readDocument } from './parse/read-document.ts';
import { reading } from './room.ts';
import { batchesOf, type DocumentToWrite, writeDocuments } from './write.ts';

const MAX_DOCUMENTS = 10_000;
/** Documents that are read at once: a few more than there are threads, so that none of them waits for another. */
const READ_AHEAD = 4;

export const ingestInput = z
  .object({
    collection: collectionName,
    documents: z.array(documentInput).min(1, 'has no documents; at least one is needed').max(MAX_DOCUMENTS),
    /** Also removes documents of the collection that are not in this list. */
    removeMissing: z.boolean().optional(),
  })
  .superRefine((input, ctx) => {
    const seen = new Map<string, number>();
    for (const [index, { path }] of input.documents.entries()) {
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

/** A document, and what is to be said of it: the message is read after the path. */
const documentRemark = z.object({ path: z.string(), code: z.enum(DOCUMENT_ERROR_CODES), message: z.string() });
type DocumentRemark = z.output<typeof documentRemark>;

/** A result and a checkpoint name no more documents than this; the counts are of all. */
const MAX_REMARKS = 100;

/** What both a checkpoint and the result hold. */
const counts = {
  added: z.number(),
  updated: z.number(),
  unchanged: z.number(),
  /** Documents that could not be read. The collection keeps the version of them that it had. */
  failedCount: z.number(),
  /** Of all documents given. */
  chunks: z.number(),
  /** The first 100 of them. */
  failed: z.array(documentRemark),
  /** The first 100 that have a title and nothing else: only that can be found. */
  warnings: z.array(documentRemark),
};

const ingestOutput = z.object({
  collection: z.string(),
  removed: z.number(),
  ...counts,
  /** Chunks that the model for embeddings was asked for; absent where there is no such model. */
  embedded: z.number().optional(),
});

type IngestInput = z.output<typeof ingestInput>;
type IngestResult = z.output<typeof ingestOutput>;
type DocumentStatus = 'added' | 'updated' | 'unchanged';
type IngestEvent =
  | { type: 'document'; path: string; status: DocumentStatus; chunks: number }
  | ({ type: 'document'; status: 'failed' } & DocumentRemark)
  | EmbeddingEvent;

/** Where an attempt stands: `next` is the first document not done. `removed` is there once removal has begun. */
const checkpointSchema = z.object({
  next: z.number().int().min(0),
  ...counts,
  removed: z.number().optional(),
});
type Checkpoint = z.output<typeof checkpointSchema>;

/**
 * @param limits of each document, where they are not the defaults
 * @param embedder makes vectors of the chunks, once their texts are committed
 */
export function createIngestJob(
  limits: Partial<DocumentLimits> = {},
  embedder?: Embedder,
): JobDefinition<IngestInput, IngestResult, IngestEvent> {
  return defineJob<typeof ingestInput, IngestResult, IngestEvent>({
    name: 'ingest',
    description: 'Puts documents into a searchable collection; unchanged ones are skipped.',
    input: ingestInput,
    output: ingestOutput,
    run: (input, ctx) => ingest(input, limits, embedder, ctx),
  });
}

/**
 * A document that cannot be read fails alone, and the job completes without it; where not one can be read, the
 * job fails. The others are written in batches, each in one transaction, while the next are read.
 */
async function ingest(
  input: IngestInput,
  limits: Partial<DocumentLimits>,
  embedder: Embedder | undefined,
  ctx: JobContext<IngestEvent>,
): Promise<IngestResult> {
  const collectionId = await ctx.transaction((trx) => upsertCollection(asOwn(trx), ctx.tenant, input.collection));
  const paths = input.documents.map(({ path }) => path);
  const states = await findDocumentStates(asOwn(ctx.db), collectionId, paths);
  const { language, since } = await findCollectionLanguage(asOwn(ctx.db), collectionId);
  const options = { limits, language: language as Language | null, since };
  const state = readCheckpoint(ctx.resumedFrom, input.documents.length);
  const total = input.documents.length;
  for await (const batch of batchesOf(prepareAll(input, state.next, states, options, ctx))) {
    ctx.signal.throwIfAborted();
    const statuses = await writeBatch(batch, collectionId, ctx);
    for (const [index, document] of batch.entries()) {
      const { path } = document;
      if ('code' in document) {
        state.failedCount++;
        remark(state.failed, document);
        await ctx.emit({ type: 'document', status: 'failed', ...document });
      } else {
        const status = statuses[index] as DocumentStatus;
        state[status]++;
        state.chunks += document.chunkCount;
        if (document.titleOnly)
          remark(state.warnings, { path, code: 'FILE_EMPTY', message: 'has no text but its title' });
        await ctx.emit({ type: 'document', path, status, chunks: document.chunkCount });
      }
      state.next++;
      await ctx.progress({ done: state.next, total, message: path });
    }
    if (state.next < total) await ctx.checkpoint({ ...state });
  }
  if (state.failedCount === total) throw nothingRead(input.collection, state);
  const removed = input.removeMissing === true ? await removeMissing(collectionId, paths, state, ctx) : 0;
  // An attempt that ends while it embeds reads no document again.
  if (embedder !== undefined) await ctx.checkpoint({ ...state });
  const embedded =
    embedder === undefined
      ? undefined
      : await embedCollection(collectionId, embedder, ctx, (done, chunks) =>
          ctx.progress({ done: total, total, message: `${done} of ${chunks} chunks embedded` }),
        );
  const { added, updated, unchanged, failedCount, chunks, failed, warnings } = state;
  const { collection } = input;
  ctx.log.info({ collection, added, updated, unchanged, failedCount, removed, embedded }, 'collection ingested');
  const result = { collection, added, updated, unchanged, failedCount, removed, chunks, failed, warnings };
  return embedded === undefined ? result : { ...result, embedded };
}

function remark(list: DocumentRemark[], one: DocumentRemark): void {
  if (list.length < MAX_REMARKS) list.push(one);
}

function nothingRead(collection: string, { failedCount, failed }: Checkpoint): NonRetryableError {
  const named = failed.slice(0, 5).map(({ path, message }) => `${JSON.stringify(path)} ${message}`);
  const more = failedCount > named.length ? `; and ${failedCount - named.length} more` : '';
  return new NonRetryableError(`No document could be read: ${named.join('; ')}${more}`, {
    code: failed[0]?.code ?? 'FILE_EMPTY',
    details: { collection, failed },
  });
}

interface PreparedDocument {
  path: string;
  title: string;
  titleOnly: boolean;
  contentHash: string;
  byteLength: number;
  /** Of one that is to be written. */
  language: Language | undefined;
  chunkCount: number;
  chunks: Chunk[] | undefined;
  known: DocumentState | undefined;
}

interface ReadingOptions {
  limits: Partial<DocumentLimits>;
  /** Of all documents of the collection; null: each has its own. */
  language: Language | null;
  /** When that was last changed. */
  since: Date | null;
}

/** Whether it was analysed in the language that the collection's setting wants. */
function hasItsLanguage(known: DocumentState, { language, since }: Omit<ReadingOptions, 'limits'>): boolean {
  if (language !== null) return known.language === language;
  return since === null || known.updatedAt >= since;
}

/** In order. The next documents are read while the caller writes those before, as many as there are threads. */
async function* prepareAll(
  input: IngestInput,
  from: number,
  states: ReadonlyMap<string, DocumentState>,
  options: ReadingOptions,
  ctx: JobContext<IngestEvent>,
): AsyncGenerator<PreparedDocument | DocumentRemark> {
  const ahead: Promise<Prepared>[] = [];
  const documents = input.documents.values().drop(from);
  try {
    for (;;) {
      while (ahead.length < READ_AHEAD) {
        const next = documents.next();
        if (next.done === true) break;
        const one = prepare(next.value, states.get(next.value.path), options, ctx);
        // It is awaited in its turn; a job that ends before has no use for it.
        one.catch(() => {});
        ahead.push(one);
      }
      const first = await ahead.shift();
      if (first === undefined) return;
      first.leave();
      yield first.document;
      // Chunking is work of the CPU: other jobs' timers and heartbeats get their turn in between.
      await setImmediate();
      ctx.signal.throwIfAborted();
    }
  } finally {
    for (const one of ahead)
      one.then(
        ({ leave }) => leave(),
        () => {},
      );
  }
}

interface Prepared {
  document: PreparedDocument | DocumentRemark;
  /** It is somebody else's to count. */
  leave(): void;
}

async function prepare(
  given: DocumentInput,
  known: DocumentState | undefined,
  { limits, ...options }: ReadingOptions,
  ctx: JobContext<IngestEvent>,
): Promise<Prepared> {
  const { path } = given;
  let leave = () => {};
  try {
    const { contentHash, byteLength, read } = await openDocument(given, ctx);
    const about = { path, contentHash, byteLength, known };
    if (
      known !== undefined &&
      known.contentHash === contentHash &&
      known.chunkerVersion === CHUNKER_VERSION &&
      known.analyserVersion === ANALYSER_VERSION &&
      hasItsLanguage(known, options)
    ) {
      const { chunkCount } = known;
      const document = { ...about, title: '', titleOnly: false, language: undefined, chunkCount, chunks: undefined };
      return { document, leave };
    }
    leave = await reading.enter(byteLength, ctx.signal);
    const parsed = await readDocument(await read(), limits, ctx.signal);
    const { title } = parsed;
    const chunks = chunkDocument(parsed);
    const titleOnly = parsed.titleOnly === true;
    const language = options.language ?? (await detectLanguage(parsed.text));
    return { document: { ...about, title, titleOnly, language, chunkCount: chunks.length, chunks }, leave };
  } catch (error) {
    if (error instanceof DocumentError) return { document: { path, code: error.code, message: error.message }, leave };
    leave();
    throw error;
  }
}

/** @returns a status for each; `undefined` of one that failed */
async function writeBatch(
  batch: readonly (PreparedDocument | DocumentRemark)[],
  collectionId: string,
  ctx: JobContext<IngestEvent>,
): Promise<(DocumentStatus | undefined)[]> {
  const changed = batch.filter(
    (document): document is PreparedDocument & DocumentToWrite => 'chunks' in document && document.chunks !== undefined,
  );
  const revisions = changed.length === 0 ? new Map<string, number>() : await writeDocuments(changed, collectionId, ctx);
  if (revisions.size > 0) await mergeParts(asOwn(ctx.db), collectionId);
  return batch.map((document) => {
    if ('code' in document) return undefined;
    const { path, chunks, known } = document;
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
  return { next: 0, added: 0, updated: 0, unchanged: 0, failedCount: 0, chunks: 0, failed: [], warnings: [] };
}
