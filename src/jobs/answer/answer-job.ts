/** The `answer` job: a question about a collection, its answer streamed with its sources. */
import { z } from 'zod';
import { findNewestMessages, type Message, upsertExchange } from '../../db/conversations.ts';
import { findCollection, findCollections } from '../../db/documents.ts';
import { asOwn } from '../../db/own-schema.ts';
import { NonRetryableError } from '../../errors.ts';
import { defineJob, type JobContext, type JobDefinition } from '../define-job.ts';
import { checkText, collectionName } from '../ingest/input-text.ts';
import { extractAnswer, missingWords, nothingFound } from './extract.ts';
import { type ModelSettings, streamModelAnswer } from './model.ts';
import { retrieve } from './retrieval.ts';
import { type Source, sourceSchema } from './sources.ts';
import { paceText } from './stream-text.ts';

/** `model` of an answer that no model wrote. */
const EXTRACTIVE = 'extractive';

/** Enough to understand a follow-up, little enough for a small model's context. */
const HISTORY_MESSAGES = 10;

export const answerInput = z.object({
  question: z
    .string()
    .min(1)
    .max(4_000)
    .superRefine((question, ctx) => checkText(question, (message) => ctx.addIssue({ code: 'custom', message }))),
  collection: collectionName,
  /** Earlier questions and answers under this id are known to this one, and it is added to them. */
  conversationId: z.uuid().optional(),
  /** Most sources an answer may rest on. */
  maxSources: z.number().int().min(1).max(20).default(6),
});

const answerOutput = z.object({
  text: z.string(),
  sources: z.array(sourceSchema),
  /** The model's name; `extractive` when none wrote the text. */
  model: z.string(),
});

type AnswerInput = z.output<typeof answerInput>;
type AnswerResult = z.output<typeof answerOutput>;
type AnswerEvent =
  | { type: 'sources'; sources: Source[] }
  | { type: 'delta'; text: string }
  | { type: 'usage'; inputTokens?: number; outputTokens?: number; totalTokens?: number };

export interface AnswerJobOptions {
  model: ModelSettings | undefined;
  /** Pause between the words of the built-in extractive answerer, ms. */
  answerPaceMs: number;
  /** For tests and proxies; default the platform's. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** No checkpoint: an attempt after the first starts over, and readers discard what came before it. */
export function createAnswerJob(
  options: AnswerJobOptions,
): JobDefinition<AnswerInput, AnswerResult, AnswerEvent, z.input<typeof answerInput>> {
  return defineJob<typeof answerInput, AnswerResult, AnswerEvent>({
    name: 'answer',
    description: 'Answers a question from a collection, streamed, with its sources.',
    input: answerInput,
    output: answerOutput,
    run: (input, ctx) => answer(input, ctx, options),
  });
}

async function answer(
  input: AnswerInput,
  ctx: JobContext<AnswerEvent>,
  options: AnswerJobOptions,
): Promise<AnswerResult> {
  const { question, conversationId } = input;
  const db = asOwn(ctx.db);
  const collection = await findCollection(db, ctx.tenant, input.collection);
  if (collection === undefined) throw await unknownCollection(input.collection, ctx);
  const history =
    conversationId === undefined
      ? []
      : await findNewestMessages(db, ctx.tenant, conversationId, {
          exceptJobId: ctx.jobId,
          limit: HISTORY_MESSAGES,
        });
  const retrieval = await retrieve(db, {
    collectionId: collection.id,
    question,
    previousQuestion: history.findLast(({ role }) => role === 'user')?.content,
    limit: input.maxSources,
  });
  ctx.signal.throwIfAborted();
  ctx.log.info(
    { chunks: retrieval.chunks.length, coverage: retrieval.coverage, model: options.model?.name ?? EXTRACTIVE },
    'sources retrieved',
  );

  const { model } = options;
  let result: AnswerResult;
  if (model !== undefined && retrieval.chunks.length > 0) {
    const sources = retrieval.chunks.map(({ path, heading, documentId, ordinal }, index) => ({
      n: index + 1,
      path,
      heading,
      documentId,
      ordinal,
    }));
    await ctx.emit({ type: 'sources', sources });
    const text = await emitModelAnswer({ question, chunks: retrieval.chunks, history }, model, ctx, options.fetch);
    result = { text, sources, model: model.name };
  } else {
    const { text, sources } =
      model === undefined
        ? await extractAnswer(db, { question, collection: input.collection, retrieval })
        : { text: nothingFound(input.collection, await missingWords(db, question, retrieval)), sources: [] };
    await ctx.emit({ type: 'sources', sources });
    for await (const delta of paceText(text, options.answerPaceMs, ctx.signal))
      await ctx.emit({ type: 'delta', text: delta });
    result = { text, sources, model: EXTRACTIVE };
  }

  ctx.signal.throwIfAborted();
  if (conversationId !== undefined) {
    // Together with the outcome: an attempt after this commit would find the answer given, not give another.
    await ctx.transaction(async (trx) => {
      await upsertExchange(asOwn(trx), {
        tenant: ctx.tenant,
        conversationId,
        jobId: ctx.jobId,
        question,
        answer: storable(result.text),
      });
      await ctx.complete(trx, result);
    });
  }
  return result;
}

async function emitModelAnswer(
  question: {
    question: string;
    chunks: Parameters<typeof streamModelAnswer>[1]['chunks'];
    history: readonly Message[];
  },
  model: ModelSettings,
  ctx: JobContext<AnswerEvent>,
  fetch: AnswerJobOptions['fetch'],
): Promise<string> {
  let text = '';
  for await (const part of streamModelAnswer(model, question, { signal: ctx.signal, fetch })) {
    if (part.type === 'delta') {
      text += part.text;
      await ctx.emit(part);
    } else {
      const { inputTokens, outputTokens, totalTokens } = part;
      await ctx.emit({
        type: 'usage',
        ...(inputTokens === undefined ? {} : { inputTokens }),
        ...(outputTokens === undefined ? {} : { outputTokens }),
        ...(totalTokens === undefined ? {} : { totalTokens }),
      });
    }
  }
  return text;
}

/** `text` columns take no NUL and no half of a surrogate pair; the journal and the result keep the answer as it came. */
function storable(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD');
}

async function unknownCollection(name: string, ctx: JobContext<AnswerEvent>): Promise<NonRetryableError> {
  const known = await findCollections(asOwn(ctx.db), ctx.tenant, 10);
  const hint =
    known.length === 0
      ? 'nothing has been ingested yet'
      : `there are ${known.map((collection) => `"${collection.name}"`).join(', ')}`;
  return new NonRetryableError(`There is no collection "${name}": ${hint}`, {
    code: 'INPUT_INVALID',
    details: { collection: name },
  });
}
