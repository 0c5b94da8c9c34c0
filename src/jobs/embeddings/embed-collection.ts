/**
 * Gives the chunks of a collection their vectors.
 *
 * Their texts are committed before, and found by their words meanwhile. Each answer of the server is committed as it comes,
 * at the job's fence: an attempt that dies loses the request that was under way, and the next one asks for what is left.
 * Chunks that a new version of a document has kept keep their vectors.
 */
import { endEmbeddingTurn, takeEmbeddingTurn } from '../../db/embedding-turns.ts';
import { asOwn } from '../../db/own-schema.ts';
import {
  countChunksToEmbed,
  deleteEarlierVectors,
  deleteOtherModels,
  type EmbeddingModel,
  findEmbeddingModel,
  insertVectors,
  upsertEmbeddingModel,
} from '../../db/vectors.ts';
import { quantise } from '../../search/vectors.ts';
import { pause } from '../answer/model/patience.ts';
import type { JobContext } from '../define-job.ts';
import { broken } from './answer.ts';
import type { Embedder, Waiting } from './embedder.ts';
import { batchesOf, itemsOf } from './items.ts';
import { distinctTexts, toRows } from './rows.ts';

/** How often a job looks whether another has done with the collection. */
const TURN_POLL_MS = 500;
/** Rows of other models that one transaction deletes. */
const REMOVAL_ROWS = 1_000;

export type EmbeddingEvent =
  | Waiting
  | { type: 'usage'; model: string; estimated: boolean; inputTokens?: number; totalTokens?: number };

type EmbeddingContext = Pick<JobContext, 'db' | 'jobId' | 'signal' | 'keyFor' | 'transaction'> & {
  emit(event: EmbeddingEvent): Promise<void>;
};

/**
 * @param report called with the chunks that have their vectors, and with all that are to get one
 * @returns how many chunks have got a vector from the server
 * @throws what `Embedder.embed` throws; what is committed stays
 */
export async function embedCollection(
  collectionId: string,
  embedder: Embedder,
  ctx: EmbeddingContext,
  report: (done: number, total: number) => Promise<void>,
): Promise<number> {
  if (!(await waitForTurn(collectionId, ctx))) return 0;
  const db = asOwn(ctx.db);
  let model = await findEmbeddingModel(db, embedder.model);
  const total = await countChunksToEmbed(db, collectionId, model?.id);
  let done = 0;
  let embedded = 0;
  for await (const batch of batchesOf(
    itemsOf(collectionId, () => model, ctx),
    embedder.limits.batch,
  )) {
    ctx.signal.throwIfAborted();
    const texts = distinctTexts(batch);
    const vectors = new Map<string, Uint8Array>();
    if (texts.size > 0) {
      const answer = await embedder.embed([...texts.values()], {
        signal: ctx.signal,
        keyFor: ctx.keyFor,
        onWaiting: (waiting) => ctx.emit(waiting),
      });
      model = await checkModel(model, answer.vectors[0]?.length ?? 0, embedder, ctx);
      for (const [index, key] of [...texts.keys()].entries())
        vectors.set(key, quantise(answer.vectors[index] as Float32Array));
      const { tokens } = answer;
      await ctx.emit({
        type: 'usage',
        model: embedder.model,
        estimated: false,
        ...(tokens === undefined ? {} : { inputTokens: tokens, totalTokens: tokens }),
      });
    }
    const modelId = (model as EmbeddingModel).id;
    const rows = toRows(batch, vectors);
    await ctx.transaction(async (trx) => {
      await insertVectors(asOwn(trx), collectionId, modelId, rows);
      const finished = batch.filter(({ isLast }) => isLast).map(({ documentId }) => documentId);
      await deleteEarlierVectors(asOwn(trx), finished);
    });
    embedded += batch.filter(({ vector }) => vector === undefined).length;
    done += batch.length;
    await report(done, Math.max(done, total));
  }
  if (model !== undefined) await removeOtherModels(collectionId, model.id, ctx);
  await ctx.transaction((trx) => endEmbeddingTurn(asOwn(trx), collectionId, ctx.jobId));
  return embedded;
}

/**
 * One job at a time embeds a collection: two would pay for the same chunks.
 *
 * @returns false: the collection is gone
 */
async function waitForTurn(collectionId: string, ctx: EmbeddingContext): Promise<boolean> {
  for (;;) {
    ctx.signal.throwIfAborted();
    const turn = await ctx.transaction((trx) => takeEmbeddingTurn(asOwn(trx), collectionId, ctx.jobId));
    if (turn !== 'taken') return turn === 'ours';
    await pause(TURN_POLL_MS, ctx.signal);
  }
}

/** @throws OncefleetError MODEL_FAILED vectors of another length cannot be compared with those that are stored */
async function checkModel(
  known: EmbeddingModel | undefined,
  dimensions: number,
  { model: name }: Embedder,
  ctx: EmbeddingContext,
): Promise<EmbeddingModel> {
  const model = known ?? (await upsertEmbeddingModel(asOwn(ctx.db), { name, dimensions }));
  if (model.dimensions === dimensions) return model;
  throw broken(
    `gave vectors of ${dimensions} numbers, where those of ${JSON.stringify(name)} have ${model.dimensions}: a model of another size needs another name in EMBEDDING_MODEL`,
  ).error;
}

/** Vectors of a model before this one serve processes that still have it, until this one's are complete. */
async function removeOtherModels(collectionId: string, modelId: number, ctx: EmbeddingContext): Promise<void> {
  if ((await countChunksToEmbed(asOwn(ctx.db), collectionId, modelId)) > 0) return;
  for (;;) {
    const removed = await ctx.transaction((trx) => deleteOtherModels(asOwn(trx), collectionId, modelId, REMOVAL_ROWS));
    if (removed < REMOVAL_ROWS) return;
  }
}
