/**
 * What a job is: a name, schemas for what crosses its edges, its timing, and the handler.
 * The web process needs the first three, a worker all of it.
 */
import type { Kysely, Transaction } from 'kysely';
import { z } from 'zod';
import type { QualifiedDatabase } from '../db/own-schema.ts';
import type { JobEvent } from '../journal/event.ts';
import type { Logger } from '../log.ts';
import { aFunction, MAX_TIMER_MS, parseOptions, RANGES, wholeNumber } from '../options.ts';
import { type JobLimit, type JobLimitOptions, limitsSchema, namedLimits } from './limits.ts';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** A request of a chat client: of OpenAI's APIs, or of the AI SDK. */
export interface ChatRequest {
  /** The conversation so far, oldest first; the last one is the user's. */
  messages: readonly ChatMessage[];
  /** What the model's name has after the job's name and a slash. */
  variant: string | undefined;
  instructions: string | undefined;
  metadata: Readonly<Record<string, string>>;
}

/** What a handler gets besides its input. */
export interface JobContext<E extends JobEvent = JobEvent> {
  readonly jobId: string;
  readonly tenant: string;
  readonly name: string;
  /** The caller's idempotency key, if one was given. */
  readonly key: string | null;
  /** 1 for the first claim of the job, +1 for each later one. */
  readonly attempt: number;
  readonly fence: number;
  /** Aborts on cancel (`CancelledError`), timeout, shutdown (`InterruptedError`) or a lost lease (`LeaseLostError`). */
  readonly signal: AbortSignal;
  /** A pino child that binds the job's ids; its newest 200 lines also go to Bull Board's job log. */
  readonly log: Logger;
  /** For tables of your own, as your role's search_path finds them; the fleet's are `oncefleet.jobs` and so on. */
  readonly db: Kysely<QualifiedDatabase>;
  /** What the last `checkpoint()` of an earlier attempt saved; `undefined` on a fresh start. */
  readonly resumedFrom: unknown;
  /**
   * What earlier attempts emitted and this one does not supersede, as readers have it: with
   * `onRetry: 'continue'` everything, else what came before the checkpoint. Read from the
   * journal as it is iterated, a few segments in memory at a time; every iteration starts anew.
   */
  readonly previous: AsyncIterable<E>;
  /**
   * Appends an event to the job's stream. Await it: it waits while buffers are full. As with all calls of a
   * context, a rejection that is not awaited goes to the job's log; what an `async` callback makes of it is yours.
   * @throws OncefleetError EVENT_INVALID (alone; the stream continues), LEASE_LOST, STREAM_CLOSED
   */
  emit(event: E): Promise<void>;
  /**
   * Emits a `progress` event and sets Bull Board's progress.
   * @throws OncefleetError EVENT_INVALID (`done` and `total` are numbers), and as `emit` does
   */
  progress(progress: { done: number; total?: number; message?: string }): Promise<void>;
  /** Resolves once every event emitted so far is committed. */
  flush(): Promise<void>;
  /**
   * Saves where the job stands, after all events emitted so far. A later attempt reads it as `resumedFrom`.
   * Waits while Postgres is unreachable, until the run must stop.
   */
  checkpoint(value: unknown): Promise<void>;
  /**
   * Runs `effects` in a transaction that commits only while this run holds its fence.
   * @throws LeaseLostError nothing was committed
   */
  transaction<T>(effects: (trx: Transaction<QualifiedDatabase>) => Promise<T>): Promise<T>;
  /**
   * Completes the job inside a transaction: its effects, the last events, the result and the
   * status commit together, or none of them. What `run` returns afterwards is ignored.
   * @throws LeaseLostError roll back (throwing it out of `transaction` does); OncefleetError
   *   STREAM_CLOSED this transaction has completed the job before, and still does;
   *   JOURNAL_REFUSED an event of this run was refused: it fails
   */
  // biome-ignore lint/suspicious/noExplicitAny: whatever tables the handler knows of.
  complete(trx: Transaction<any>, result: unknown): Promise<void>;
  /** A key for a step's outside effect, the same in every attempt of this job. @throws InputInvalidError no step */
  keyFor(step: string): string;
}

export interface Backoff {
  type: 'fixed' | 'exponential';
  /** Delay before the second attempt, in milliseconds. */
  delayMs: number;
  /** Longest delay, in milliseconds; default 5 minutes. */
  maxDelayMs?: number;
  /** Share of the delay that is random, 0 to 1; default 0.2. */
  jitter?: number;
}

export interface JobPolicy {
  /** Attempts that may end in an error before the job fails. Crashes and interruptions do not count. Default 3. */
  attempts: number;
  backoff: Backoff;
  /** Longest one attempt may run, in milliseconds; default none. */
  timeoutMs?: number;
  /** Longest from enqueue to a terminal state, in milliseconds; default none. */
  deadlineMs?: number;
  /** Overrides of the fleet's lease times, in milliseconds. */
  lease?: { ttlMs: number };
  /** Overrides the fleet's `maxCrashes`. */
  maxCrashes?: number;
  /** Overrides the fleet's `resultTtlMs`. */
  resultTtlMs?: number;
  /**
   * A delivery that finds Postgres unreachable: comes back later (`defer`), or runs without lease,
   * journal and checkpoints (`run`; see docs/guides/idempotency.md for what that gives up). Default `defer`.
   */
  onStoreOutage: 'defer' | 'run';
  /** What a new enqueue under a failed job's key gets: the stored failure, or a new run. Default `replay`. */
  onFailedKey: 'replay' | 'rerun';
  /**
   * When events reach live readers: after their commit, so that what a reader has seen stays
   * (`committed`), or inside `emit`, some ms earlier, at the price of a `rewind` when a crash
   * lost the last of them (`immediate`). Kept in the job's row at its enqueue. Default `committed`.
   */
  publish: 'committed' | 'immediate';
  /**
   * What a later attempt does with the events of those before it: readers discard what came
   * after the last checkpoint (everything, without one), or keep all of it (`continue`) and the
   * handler continues from `ctx.previous`. Default `restart`.
   */
  onRetry: 'restart' | 'continue';
}

/**
 * A zod schema by its shape. zod's own types hold its minor version, so that a schema of another copy,
 * as beside a folder that npm has linked, would not be assignable to them.
 */
export interface Schema<O = unknown, I = unknown> {
  /** What zod infers from: `z.output<>` and `z.input<>` work. */
  readonly _zod: { readonly output: O; readonly input: I };
  safeParse(
    value: unknown,
    params?: { error?: (issue: unknown) => string | undefined },
  ):
    | { success: true; data: O }
    | { success: false; error: { issues: readonly { path: readonly PropertyKey[]; message: string }[] } };
}

/**
 * @typeParam I what `run` gets: the input after its schema
 * @typeParam In what `enqueue` takes: the input before it
 */
export interface JobDefinition<I = unknown, O = unknown, E extends JobEvent = JobEvent, In = I> {
  readonly name: string;
  /** BullMQ queue; default the job's name. */
  readonly queue: string;
  readonly description: string;
  readonly input: Schema<I, In>;
  readonly output: Schema<O> | undefined;
  /** What the handler may emit; `emit` refuses anything else. */
  readonly events: Schema<E> | undefined;
  readonly policy: Readonly<JobPolicy>;
  /** How many jobs of a key run at once, and start in a time; absent: any number. */
  readonly limits?: readonly JobLimit<I>[];
  /** Method syntax keeps definitions of different inputs in one list. */
  run(input: I, ctx: JobContext<E>): Promise<O>;
  onPoison?(job: { jobId: string; tenant: string; name: string; crashes: number }): void | Promise<void>;
  /** The input that answers a chat client: with it, the job is a model of `/v1/models`. */
  fromChat?(request: ChatRequest): In;
}

/** A definition in a list of several. */
// biome-ignore lint/suspicious/noExplicitAny: the list's reader checks input by schema; no type fits all.
export type AnyJobDefinition = JobDefinition<any, any, any, any>;

export interface JobOptions<I extends Schema, O, E extends JobEvent> extends Partial<JobPolicy> {
  name: string;
  queue?: string;
  description?: string;
  input: I;
  output?: Schema<O>;
  events?: Schema<E>;
  /** How many jobs of a key run at once, and start in a time. See docs/guides/limits.md. */
  limits?: readonly JobLimitOptions<z.output<I>>[];
  run(input: z.output<I>, ctx: JobContext<E>): Promise<O> | O;
  /** The input that answers a chat client (docs/guides/clients.md): with it, the job is a model of `/v1/models`. */
  fromChat?(request: ChatRequest): z.input<I>;
  /** Called at least once when a job is poisoned, by any process that works; a call that fails, or takes 20 s, is tried again. */
  onPoison?(job: { jobId: string; tenant: string; name: string; crashes: number }): void | Promise<void>;
}

const NAME = /^[A-Za-z0-9][\w.-]{0,99}$/;

/** What a job gets where its author said nothing. */
const DEFAULT_POLICY = {
  attempts: 3,
  backoff: { type: 'exponential', delayMs: 1_000 },
  onFailedKey: 'replay',
  onStoreOutage: 'defer',
  publish: 'committed',
  onRetry: 'restart',
} as const satisfies JobPolicy;

const backoffMs = wholeNumber({ min: 0, max: 31_536_000_000 });

/** The settings of a job, as both ways of making one read them. */
export const policyShape = {
  attempts: wholeNumber({ min: 1, max: 1_000 }).default(DEFAULT_POLICY.attempts),
  backoff: z
    .strictObject({
      type: z.enum(['fixed', 'exponential']),
      delayMs: backoffMs,
      maxDelayMs: backoffMs.optional(),
      jitter: z.number().min(0).max(1).optional(),
    })
    .default(DEFAULT_POLICY.backoff),
  timeoutMs: wholeNumber({ min: 1, max: MAX_TIMER_MS }).optional(),
  deadlineMs: wholeNumber({ min: 1, max: 31_536_000_000 }).optional(),
  lease: z.strictObject({ ttlMs: wholeNumber(RANGES.leaseTtlMs) }).optional(),
  maxCrashes: wholeNumber(RANGES.maxCrashes).optional(),
  resultTtlMs: wholeNumber(RANGES.resultTtlMs).optional(),
  onFailedKey: z.enum(['replay', 'rerun']).default(DEFAULT_POLICY.onFailedKey),
  onStoreOutage: z.enum(['defer', 'run']).default(DEFAULT_POLICY.onStoreOutage),
  publish: z.enum(['committed', 'immediate']).default(DEFAULT_POLICY.publish),
  onRetry: z.enum(['restart', 'continue']).default(DEFAULT_POLICY.onRetry),
} satisfies Record<keyof JobPolicy, z.ZodType>;

const nameOf = (what: string) =>
  z.custom<string>(
    (value) => typeof value === 'string' && NAME.test(value),
    `expected a ${what} name: 1 to 100 of A-Za-z0-9_.-, the first a letter or digit`,
  );
/** By shape: the caller may have another copy of zod. */
const aSchema = z.custom<Schema>(
  (value) => typeof (value as Schema | undefined)?.safeParse === 'function',
  'expected a zod schema',
);

const definitionShape = {
  name: nameOf('job'),
  description: z.string().optional(),
  input: aSchema,
  output: aSchema.optional(),
  events: aSchema.optional(),
  limits: limitsSchema.optional(),
  run: aFunction,
  fromChat: aFunction.optional(),
  onPoison: aFunction.optional(),
};

/** What `defineJob` takes. */
export const jobOptionsSchema = z.strictObject({
  ...definitionShape,
  queue: nameOf('queue').optional(),
  ...policyShape,
});

/** What `defineJob` makes, whichever copy of this package has made it. */
export const definitionSchema = z.looseObject(
  { ...definitionShape, queue: nameOf('queue'), policy: z.looseObject(policyShape) },
  'expected what defineJob returns',
);

/**
 * Defines a job. Types flow from the schemas: what `run` gets, what `enqueue` takes, what
 * `result()` gives.
 *
 * @throws InputInvalidError what does not make sense, all of it
 */
export function defineJob<I extends Schema, O = unknown, E extends JobEvent = JobEvent>(
  options: JobOptions<I, O, E>,
): JobDefinition<z.output<I>, O, E, z.input<I>> {
  const given = (options as { name?: unknown } | undefined)?.name;
  const what = typeof given === 'string' && NAME.test(given) ? `Job ${given}` : 'Job definition';
  const checked = parseOptions(what, jobOptionsSchema, options);
  const limits = namedLimits(checked.name, options.limits);
  const definition: JobDefinition<z.output<I>, O, E, z.input<I>> = {
    name: checked.name,
    queue: checked.queue ?? checked.name,
    description: checked.description ?? '',
    input: options.input as unknown as Schema<z.output<I>, z.input<I>>,
    output: options.output,
    events: options.events,
    policy: toPolicy(checked),
    ...(limits === undefined ? {} : { limits }),
    run: async (input, ctx) => options.run(input, ctx),
    ...(options.fromChat === undefined ? {} : { fromChat: options.fromChat.bind(options) }),
    ...(options.onPoison === undefined ? {} : { onPoison: options.onPoison.bind(options) }),
  };
  return Object.freeze(definition);
}

/** The policy among checked options, without what was left open. */
export function toPolicy(checked: { readonly [K in keyof typeof policyShape]?: unknown }): Readonly<JobPolicy> {
  const named = Object.keys(policyShape).map((name) => [name, checked[name as keyof typeof policyShape]]);
  return Object.freeze(Object.fromEntries(named.filter(([, value]) => value !== undefined))) as Readonly<JobPolicy>;
}
