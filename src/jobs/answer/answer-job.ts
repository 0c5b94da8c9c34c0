/** The `answer` job: a question about a collection, its answer streamed with its sources. */
import { z } from 'zod';
import { findNewestMessages, upsertExchange } from '../../db/conversations.ts';
import { findCollection, findCollections } from '../../db/documents.ts';
import { asOwn } from '../../db/own-schema.ts';
import { NonRetryableError } from '../../errors.ts';
import { limitsOf, type ModelSettings } from '../../model-settings.ts';
import type { QuestionVector } from '../../search/vectors.ts';
import { type ChatRequest, defineJob, type JobContext, type JobDefinition } from '../define-job.ts';
import type { Embedder } from '../embeddings/embedder.ts';
import { checkText, collectionName } from '../ingest/input-text.ts';
import { type Citations, checkCitations, citationsSchema } from './citations.ts';
import { extractAnswer, missingWords, nothingFound } from './extract.ts';
import { type AnswerPart, loadTokenCounter, streamModelAnswer } from './model/answer.ts';
import { fitPrompt } from './model/prompt.ts';
import { retrieve } from './retrieval.ts';
import { type Source, sourceSchema, toSource } from './sources.ts';
import { paceText } from './stream-text.ts';

/** `model` of an answer that no model wrote. */
const EXTRACTIVE = 'extractive';

/** Enough to understand a follow-up, little enough for a small model's context. */
const HISTORY_MESSAGES = 10;

/** Longest message of a history, in UTF-16 units: what is longer does not fit into a prompt. */
const MAX_HISTORY_TEXT = 40_000;

export const answerInput = z.object({
  question: z
    .string()
    .min(1)
    .max(4_000)
    .superRefine((question, ctx) => checkText(question, (message) => ctx.addIssue({ code: 'custom', message }))),
  collection: collectionName,
  /** Earlier questions and answers under this id are known to this one, and it is added to them. */
  conversationId: z.uuid().optional(),
  /** The conversation so far, oldest first, where the caller keeps it: instead of a `conversationId`. */
  history: z
    .array(z.object({ role: z.enum(['user', 'assistant']), content: z.string().max(MAX_HISTORY_TEXT) }))
    .max(HISTORY_MESSAGES)
    .optional(),
  /** Most sources an answer may rest on. */
  maxSources: z.number().int().min(1).max(20).default(6),
});

/** Of all attempts, lost ones included. */
const usageSchema = z.object({
  inputTokens: z.number(),
  outputTokens: z.number(),
  totalTokens: z.number(),
  /** Some of it is our estimate: the server did not say, or its answer was lost. */
  estimated: z.boolean(),
});

const answerOutput = z.object({
  text: z.string(),
  sources: z.array(sourceSchema),
  /** The model's name; `extractive` when none wrote the text. */
  model: z.string(),
  citations: citationsSchema,
  /** Absent where no model was asked. */
  usage: usageSchema.optional(),
});

type AnswerInput = z.output<typeof answerInput>;
type AnswerResult = z.output<typeof answerOutput>;
type UsageTotal = z.output<typeof usageSchema>;
type UsageEvent = {
  type: 'usage';
  model: string;
  estimated: boolean;
  inputTokens?: number;
  outputTokens?: number;
  totalTokens?: number;
};
type AnswerEvent =
  | { type: 'sources'; sources: Source[] }
  | { type: 'delta'; text: string }
  /** What a model thought before it answered: no part of the answer. */
  | { type: 'reasoning'; text: string }
  /** The model server is busy or unreachable, and is asked again after `delayMs`. */
  | { type: 'waiting'; delayMs: number; error: { code: string; message: string } }
  | UsageEvent;

export interface AnswerJobOptions {
  model: ModelSettings | undefined;
  /** Pause between the words of the built-in extractive answerer, in milliseconds. */
  answerPaceMs: number;
  /** Makes vectors of questions, for searches by meaning. */
  embedder?: Embedder | undefined;
  /** For tests and proxies; default the platform's. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** An attempt after the first continues where the text of those before it ends: what they wrote is not paid again. */
export function createAnswerJob(
  options: AnswerJobOptions,
): JobDefinition<AnswerInput, AnswerResult, AnswerEvent, z.input<typeof answerInput>> {
  return defineJob<typeof answerInput, AnswerResult, AnswerEvent>({
    name: 'answer',
    description: 'Answers a question from a collection, streamed, with its sources.',
    input: answerInput,
    output: answerOutput,
    onRetry: 'continue',
    run: (input, ctx) => answer(input, ctx, options),
    fromChat: questionOf,
  });
}

/** The last message is the question. The collection stands in the model, `answer/<collection>`, or in the metadata. */
function questionOf({ messages, variant, metadata }: ChatRequest): z.input<typeof answerInput> {
  const history = messages
    .slice(0, -1)
    .flatMap(({ role, content }) => (role === 'system' ? [] : [{ role, content: content.slice(0, MAX_HISTORY_TEXT) }]))
    .slice(-HISTORY_MESSAGES);
  return {
    question: messages.at(-1)?.content ?? '',
    collection: variant ?? metadata.collection ?? '',
    ...(history.length === 0 ? {} : { history }),
  };
}

/**
 * What an answer is made from, kept as the job's checkpoint: a later attempt rests on the same sources, whatever has
 * become of the collection, or it could not continue with the text.
 */
const planSchema = z.object({
  sources: z.array(sourceSchema),
  /** Whole text of an answer that no model writes; else what the model is asked from. */
  text: z.string().optional(),
  contents: z.array(z.string()).optional(),
  history: z.array(z.object({ role: z.enum(['user', 'assistant']), content: z.string() })).optional(),
});
type Plan = z.output<typeof planSchema>;

/** What readers have of earlier attempts. */
interface Begun {
  text: string;
  hasSources: boolean;
  usage: UsageTotal | undefined;
  /** Text and reasoning whose usage no event tells: the attempt was lost. */
  uncounted: string;
}

async function answer(
  input: AnswerInput,
  ctx: JobContext<AnswerEvent>,
  options: AnswerJobOptions,
): Promise<AnswerResult> {
  const begun = await readBegun(ctx);
  const resumed = planSchema.safeParse(ctx.resumedFrom);
  const plan = resumed.success ? resumed.data : await makePlan(input, ctx, options);
  ctx.signal.throwIfAborted();
  if (!resumed.success) await ctx.checkpoint(plan);
  if (!begun.hasSources) await ctx.emit({ type: 'sources', sources: plan.sources });

  const written =
    plan.text === undefined && options.model !== undefined
      ? await writeByModel(input, plan, begun, options.model, ctx, options.fetch)
      : await writeOut(plan.text ?? '', begun, ctx, options.answerPaceMs);
  const result: AnswerResult = { ...written, sources: plan.sources };

  ctx.signal.throwIfAborted();
  const { conversationId, question } = input;
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

async function readBegun(ctx: JobContext<AnswerEvent>): Promise<Begun> {
  const begun: Begun = { text: '', hasSources: false, usage: undefined, uncounted: '' };
  // Not by the attempt, which a redrive counts anew: the stream keeps what was said before it.
  if (ctx.fence === 1) return begun;
  for await (const event of ctx.previous) {
    if (event.type === 'sources') begun.hasSources = true;
    else if (event.type === 'delta') begun.text += event.text;
    else if (event.type === 'usage') begun.usage = addUsage(begun.usage, event);
    if (event.type === 'delta' || event.type === 'reasoning') begun.uncounted += event.text;
    if (event.type === 'usage') begun.uncounted = '';
  }
  return begun;
}

async function makePlan(input: AnswerInput, ctx: JobContext<AnswerEvent>, options: AnswerJobOptions): Promise<Plan> {
  const { question, conversationId } = input;
  const db = asOwn(ctx.db);
  const collection = await findCollection(db, ctx.tenant, input.collection);
  if (collection === undefined) throw await unknownCollection(input.collection, ctx);
  const history =
    conversationId === undefined
      ? (input.history ?? [])
      : await findNewestMessages(db, ctx.tenant, conversationId, {
          exceptJobId: ctx.jobId,
          limit: HISTORY_MESSAGES,
        });
  const { model, embedder } = options;
  const retrieval = await retrieve(db, {
    collectionId: collection.id,
    question,
    previousQuestion: history.findLast(({ role }) => role === 'user')?.content,
    limit: input.maxSources,
    embed: embedder === undefined ? undefined : (text) => embedOrNot(text, embedder, ctx),
  });
  const { chunks, coverage, byMeaning } = retrieval;
  ctx.log.info({ chunks: chunks.length, coverage, byMeaning, model: model?.name ?? EXTRACTIVE }, 'sources retrieved');
  if (model === undefined)
    return extractAnswer(db, { question, collection: input.collection, collectionId: collection.id, retrieval });
  if (retrieval.chunks.length === 0)
    return {
      text: nothingFound(
        input.collection,
        await missingWords(db, { question, collectionId: collection.id, retrieval }),
      ),
      sources: [],
    };
  const fitted = fitPrompt(
    { question, sources: retrieval.chunks, history },
    limitsOf(model).promptTokens,
    await loadTokenCounter(),
  );
  return {
    sources: fitted.sources.map((chunk, index) => toSource(index + 1, chunk)),
    contents: fitted.sources.map(({ content }) => content),
    history: fitted.history,
  };
}

/** A question whose vector does not come in time is answered by its words. */
async function embedOrNot(
  text: string,
  embedder: Embedder,
  ctx: JobContext<AnswerEvent>,
): Promise<QuestionVector | undefined> {
  try {
    return await embedder.embedQuestion(text, ctx.signal);
  } catch (err) {
    ctx.signal.throwIfAborted();
    ctx.log.warn({ err, model: embedder.model }, 'the question has no vector; its sources are found by words alone');
    return undefined;
  }
}

type Written = Omit<AnswerResult, 'sources'>;

async function writeOut(text: string, begun: Begun, ctx: JobContext<AnswerEvent>, paceMs: number): Promise<Written> {
  // The text of a plan is the same in each attempt. An attempt without a plan was of a build that kept none.
  const rest = text.startsWith(begun.text) ? text.slice(begun.text.length) : text;
  for await (const delta of paceText(rest, paceMs, ctx.signal)) await ctx.emit({ type: 'delta', text: delta });
  return { text, model: EXTRACTIVE, citations: checkCitations(text, Number.MAX_SAFE_INTEGER, undefined) };
}

async function writeByModel(
  { question }: AnswerInput,
  plan: Plan,
  begun: Begun,
  model: ModelSettings,
  ctx: JobContext<AnswerEvent>,
  fetch: AnswerJobOptions['fetch'],
): Promise<Written> {
  const contents = plan.contents ?? [];
  const sources = plan.sources.map((source, index) => ({ ...source, content: contents[index] ?? '' }));
  const countTokens = await loadTokenCounter();
  let { text } = begun;
  let usage = await recordLost(begun, sources, model, ctx, countTokens);
  let writer = model.name;
  const parts = streamModelAnswer(
    model,
    { question, sources, history: plan.history ?? [], begun: text, jobId: ctx.jobId },
    { signal: ctx.signal, fetch, countTokens, keyFor: ctx.keyFor },
  );
  for await (const part of parts) {
    const event = toEvent(part);
    if (event.type === 'delta') text += event.text;
    else if (event.type === 'usage') {
      usage = addUsage(usage, event);
      writer = event.model;
    }
    await ctx.emit(event);
  }
  const citations: Citations = checkCitations(text, sources.length, contents);
  return { text, model: writer, citations, ...(usage === undefined ? {} : { usage }) };
}

/** What an attempt that was lost has cost is told by the next one, as far as the stream shows it. */
async function recordLost(
  begun: Begun,
  sources: readonly { content: string }[],
  model: ModelSettings,
  ctx: JobContext<AnswerEvent>,
  countTokens: (text: string) => number,
): Promise<UsageTotal | undefined> {
  if (begun.uncounted === '') return begun.usage;
  const inputTokens = sources.reduce((sum, { content }) => sum + countTokens(content), 0);
  const outputTokens = countTokens(begun.uncounted);
  const lost: UsageEvent = {
    type: 'usage',
    model: model.name,
    estimated: true,
    inputTokens,
    outputTokens,
    totalTokens: inputTokens + outputTokens,
  };
  await ctx.emit(lost);
  return addUsage(begun.usage, lost);
}

function toEvent(part: AnswerPart): AnswerEvent {
  if (part.type !== 'usage') return part;
  const { inputTokens, outputTokens, totalTokens, ...rest } = part;
  return {
    ...rest,
    ...(inputTokens === undefined ? {} : { inputTokens }),
    ...(outputTokens === undefined ? {} : { outputTokens }),
    ...(totalTokens === undefined ? {} : { totalTokens }),
  };
}

function addUsage(
  sum: UsageTotal | undefined,
  { inputTokens = 0, outputTokens = 0, ...event }: UsageEvent,
): UsageTotal {
  return {
    inputTokens: (sum?.inputTokens ?? 0) + inputTokens,
    outputTokens: (sum?.outputTokens ?? 0) + outputTokens,
    totalTokens: (sum?.totalTokens ?? 0) + (event.totalTokens ?? inputTokens + outputTokens),
    estimated: (sum?.estimated ?? false) || event.estimated === true,
  };
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
