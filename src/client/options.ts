/** What the operations of a client take. Their sizes and times have the bounds that are written here. */
import { z } from 'zod';
import { JOB_STATUSES } from '../db/jobs/states.ts';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { abortSignal, aFunction, searchText, tenantName, waitMs, wholeNumber } from '../options.ts';
import type { Turns } from '../util/turns.ts';
import type {
  CancelManyOptions,
  EnqueueManyOptions,
  EnqueueOptions,
  FindOptions,
  FollowBatchesOptions,
  FollowOptions,
  GetOptions,
  RedriveManyOptions,
  ResultOptions,
} from './types.ts';

export const DEFAULT_PAGE = 20;
const MAX_PAGE = 100;
export const DEFAULT_EVENTS = 1_000;
const MAX_EVENTS = 10_000;
/** Attempts that a job shows; one that is retried for ever has any number. */
export const MAX_ATTEMPTS = 100;

/** Failed jobs one call redrives. */
export const MAX_REDRIVE = 10_000;

/** Items of one bulk enqueue. */
export const MAX_BULK = 100_000;

/** BullMQ's own bound. */
export const MAX_PRIORITY = 2_097_151;

/** A hundred years; far more is no date of Postgres's. */
export const MAX_DELAY_MS = 3_155_760_000_000;

/** A number or a text; which of them are cursors of a stream, the stream says (CURSOR_INVALID). */
const cursor = z.union([z.number(), z.string()], 'expected a cursor: a number or a text');
const tenantShape = { tenant: tenantName.optional() };
export const tenantSchema = z.strictObject(tenantShape);
const waitShape = { signal: abortSignal.optional(), timeoutMs: waitMs.optional() };

const itemShape = {
  // Its contents are KEY_INVALID's matter.
  key: z.string().optional(),
  delayMs: waitMs.refine((ms) => ms <= MAX_DELAY_MS, `expected at most ${MAX_DELAY_MS}`).optional(),
  priority: wholeNumber({ min: 0, max: MAX_PRIORITY }).optional(),
};
// What is no transaction is TRANSACTION_INVALID.
const tx = z.unknown().optional();

export const enqueueSchema = z.strictObject({ ...tenantShape, ...itemShape, tx } satisfies Record<
  keyof EnqueueOptions,
  z.ZodType
>);

/** An item of a bulk enqueue without its input; a job that is none is said as in `enqueue`. */
export const bulkItemSchema = z.strictObject({ ...itemShape, job: z.unknown().optional() });

export const enqueueManySchema = z.strictObject({
  ...tenantShape,
  tx,
  signal: abortSignal.optional(),
  onProgress: aFunction.optional(),
} satisfies Record<keyof EnqueueManyOptions, z.ZodType>);

export const cancelManySchema = z.strictObject({
  ...tenantShape,
  name: searchText.optional(),
  queue: searchText.optional(),
  status: z.enum(['pending', 'running']).optional(),
  keyPrefix: searchText.optional(),
  olderThanMs: waitMs.refine((ms) => ms <= MAX_DELAY_MS, `expected at most ${MAX_DELAY_MS}`).optional(),
  limit: wholeNumber({ min: 1, max: Number.MAX_SAFE_INTEGER }).optional(),
  signal: abortSignal.optional(),
  onProgress: aFunction.optional(),
} satisfies Record<keyof CancelManyOptions, z.ZodType>);

const followShape = {
  after: cursor.optional(),
  signal: abortSignal.optional(),
  types: z.array(z.string().min(1, 'expected the type of an event'), 'expected an array of types of events').optional(),
  committed: z.boolean().optional(),
  throughOutages: z.boolean().optional(),
};
export const eventsSchema = z.strictObject(followShape);
export const followSchema = z.strictObject({ ...tenantShape, ...followShape } satisfies Record<
  keyof FollowOptions,
  z.ZodType
>);
export const batchesSchema = followSchema.omit({ types: true, throughOutages: true }).extend({
  turns: z
    .custom<Turns>((value) => typeof (value as Turns | undefined)?.take === 'function', 'expected turns')
    .optional(),
  maxInboxLength: wholeNumber({ min: 0, max: Number.MAX_SAFE_INTEGER }).optional(),
  keep: aFunction.optional(),
} satisfies Record<Exclude<keyof FollowBatchesOptions, keyof FollowOptions>, z.ZodType>);
export const waitSchema = z.strictObject(waitShape satisfies Record<keyof ResultOptions, z.ZodType>);
export const resultSchema = z.strictObject({ ...tenantShape, ...waitShape });
export const readSchema = z.strictObject({
  ...tenantShape,
  after: cursor.optional(),
  limit: wholeNumber({ min: 0, max: MAX_EVENTS }).optional(),
});

export const getSchema = z.strictObject({
  ...tenantShape,
  maxBytes: wholeNumber({ min: 0, max: 2 ** 31 - 1 }).optional(),
} satisfies Record<keyof GetOptions, z.ZodType>);

export const pauseSchema = z.strictObject({ by: searchText.optional() });

export const findSchema = z.strictObject({
  ...tenantShape,
  // As with enqueue, its contents are KEY_INVALID's matter.
  key: z.string().optional(),
  name: searchText.optional(),
  status: z.enum(JOB_STATUSES).optional(),
  // A text that is none is CURSOR_INVALID.
  cursor: z.string().optional(),
  limit: wholeNumber({ min: 1, max: MAX_PAGE }).optional(),
} satisfies Record<keyof FindOptions, z.ZodType>);

export const redriveSchema = z.strictObject({
  ...tenantShape,
  name: searchText.optional(),
  code: z.enum(Object.keys(ERROR_CODES) as ErrorCode[], 'expected an error code').optional(),
  withinMs: waitMs
    .refine(
      (ms) => ms === Number.POSITIVE_INFINITY || ms <= MAX_DELAY_MS,
      `expected at most ${MAX_DELAY_MS}, or Infinity`,
    )
    .optional(),
  limit: wholeNumber({ min: 1, max: MAX_REDRIVE }).optional(),
  canary: wholeNumber({ min: 0, max: MAX_REDRIVE }).optional(),
  canaryTimeoutMs: waitMs.optional(),
  signal: abortSignal.optional(),
  onProgress: aFunction.optional(),
} satisfies Record<keyof RedriveManyOptions, z.ZodType>);
