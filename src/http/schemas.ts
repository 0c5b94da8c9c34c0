/** What the API takes and gives, for its types and for /openapi.json. */

import { z } from 'zod';
import type { JobRecord, JobSummary } from '../client/types.ts';
import { JOB_STATUSES } from '../db/jobs/states.ts';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { searchText } from '../options.ts';

/** Far beyond any sensible schedule, and well inside what a timestamp and Redis's scores hold. */
const MAX_DELAY_MS = 366 * 24 * 3_600_000;
/** BullMQ's own bound. */
const MAX_PRIORITY = 2_097_151;
/** Longest long poll, in seconds: proxies cut requests off soon after. */
const MAX_WAIT_S = 60;
const MAX_PAGE_EVENTS = 1_000;
/** Streams one request follows: each event brings the cursors of all, 20 bytes or so each. */
export const MAX_STREAMS = 50;
const MAX_PAGE_JOBS = 100;
/** Jobs that one request redrives. */
const MAX_REDRIVE = 10_000;
/** The request is held until all of them have ended. */
const MAX_CANARIES = 100;
const MAX_CANARY_MS = 600_000;
const MAX_WITHIN_MS = 3_155_760_000_000;
/** Items of one request. */
export const MAX_BULK_ITEMS = 10_000;
/** Jobs that one request cancels. */
export const MAX_CANCEL = 10_000;

const errorCode = z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]);
const failure = z.object({ code: errorCode, message: z.string() });
const timestamp = z.iso.datetime();
const jobStatus = z.enum(JOB_STATUSES);

/** Query numbers come as text; an empty one is no number, where `Number('')` would be 0. */
export const queryInt = (min: number, max: number) => {
  const error = `expected a whole number from ${min} to ${max}`;
  return z
    .string()
    .regex(/^-?\d{1,15}$/, error)
    .transform(Number)
    .pipe(z.int().min(min, error).max(max, error))
    .optional();
};

export const jobNameParams = z.object({ name: z.string().describe('A job of /v1/job-definitions.') });
export const jobIdParams = z.object({ id: z.string().describe('The id that the enqueue answered with.') });

export const enqueueHeaders = z.looseObject({
  'idempotency-key': z
    .string()
    .optional()
    .describe(
      '1 to 255 bytes of UTF-8 without control characters. Same key and body: same job. Without one, a new job.',
    ),
});

export const enqueueQuery = z.strictObject({
  delayMs: queryInt(0, MAX_DELAY_MS).describe('Not before this many ms from now.'),
  priority: queryInt(0, MAX_PRIORITY).describe('1 is first; 0, the default, is before all of those.'),
});

const links = z.object({
  self: z.string(),
  events: z.string(),
  cancel: z.string(),
});

export const enqueueAnswer = z.object({
  id: z.uuid(),
  status: jobStatus,
  outcome: z
    .enum(['created', 'attached', 'replayed'])
    .describe('`attached`: already in flight. `replayed`: already ended.'),
  links,
});

const attempt = z.object({
  fence: z.int(),
  worker: z.string().describe('With tokens without its host and process.'),
  host: z.string().describe('Empty with tokens: tenants are not told.'),
  startedAt: timestamp,
  finishedAt: timestamp.nullable(),
  outcome: z
    .enum(['completed', 'error', 'crash', 'interruption', 'deferral', 'cancelled', 'poisoned'])
    .nullable()
    .describe('`null` while it runs.'),
  error: failure.nullable(),
});

const jobSummary = z.object({
  id: z.uuid(),
  tenant: z.string(),
  name: z.string(),
  queue: z.string(),
  key: z.string().nullable(),
  status: jobStatus,
  fence: z.int().describe('+1 on every claim.'),
  error: failure.nullable(),
  crashCount: z.int(),
  errorCount: z.int(),
  deferralCount: z.int(),
  limitedCount: z.int(),
  interruptionCount: z.int(),
  runAt: timestamp,
  createdAt: timestamp,
  startedAt: timestamp.nullable(),
  finishedAt: timestamp.nullable(),
  expiresAt: timestamp.nullable(),
  cancelRequestedAt: timestamp.nullable(),
  leaseOwner: z.string().nullable(),
}) satisfies z.ZodType<JobSummary>;

const progress = z.object({ done: z.number(), total: z.number().optional(), message: z.string().optional() });

export const jobAnswer = jobSummary.extend({
  input: z.unknown(),
  result: z.unknown(),
  leftOut: z
    .array(z.enum(['input', 'result']))
    .describe('What is `null` because it is larger than one answer carries, 4 MiB.'),
  progress: progress.nullable().describe('As the handler last reported it.'),
  attempts: z.array(attempt).describe('The last 100.'),
}) satisfies z.ZodType<Omit<JobRecord, 'progress'>>;

export const searchQuery = z.strictObject({
  key: z.string().optional().describe('The idempotency key, exactly.'),
  name: searchText.max(100).optional(),
  status: jobStatus.optional(),
  cursor: z.string().max(500).optional().describe('`nextCursor` of the page before.'),
  limit: queryInt(1, MAX_PAGE_JOBS).describe('Default 20.'),
});

export const searchAnswer = z.object({ jobs: z.array(jobSummary), nextCursor: z.string().nullable() });

export const cancelAnswer = z.object({
  id: z.uuid(),
  status: jobStatus,
  outcome: z
    .enum(['cancelled', 'requested', 'finished'])
    .describe('`cancelled`: done now. `requested`: its worker is told. `finished`: it had already ended.'),
});

const bodyInt = (min: number, max: number) => {
  const error = `expected a whole number from ${min} to ${max}`;
  return z.int(error).min(min, error).max(max, error).optional();
};

export const bulkBody = z.strictObject({
  items: z
    .array(
      z.looseObject({
        input: z.unknown().describe('As the body of POST /v1/jobs/{name}.'),
        key: z.string().optional().describe('The idempotency key.'),
        delayMs: bodyInt(0, MAX_DELAY_MS).describe('Not before this many ms from now.'),
        priority: bodyInt(0, MAX_PRIORITY).describe('1 is first; 0, the default, is before all of those.'),
      }),
    )
    .max(MAX_BULK_ITEMS, `expected at most ${MAX_BULK_ITEMS} items`),
});

export const bulkAnswer = z.object({
  items: z
    .array(
      z.union([
        z.object({
          index: z.int(),
          outcome: z.enum(['created', 'attached', 'replayed']),
          id: z.uuid(),
          status: jobStatus,
        }),
        z.object({
          index: z.int(),
          outcome: z.enum(['conflict', 'invalid', 'error']).describe('`error`: send it again.'),
          error: failure,
        }),
      ]),
    )
    .describe('One an item, in their order.'),
  counts: z.object({
    created: z.int(),
    attached: z.int(),
    replayed: z.int(),
    conflict: z.int(),
    invalid: z.int(),
    error: z.int(),
  }),
});

export const cancelManyBody = z.strictObject({
  name: searchText.max(100).optional().describe('Jobs of this name.'),
  queue: searchText.max(100).optional().describe('Jobs of this queue.'),
  status: z
    .enum(['pending', 'running'])
    .optional()
    .describe('`pending`: those that wait; by default running ones too.'),
  keyPrefix: searchText.max(255).optional().describe('Jobs whose key begins with this.'),
  olderThanMs: bodyInt(0, MAX_WITHIN_MS).describe('Jobs that were enqueued longer ago than this.'),
  limit: bodyInt(1, MAX_CANCEL).describe('At most this many; default 10,000.'),
});

export const cancelManyAnswer = z.object({
  matched: z.int().describe('Unfinished jobs that fit the filter, up to the limit; 0: none is left.'),
  cancelled: z.int().describe('Of those, the ones that have ended.'),
  requested: z.int().describe('Of those, the ones whose worker is told.'),
});

export const redriveManyBody = z.strictObject({
  name: searchText.max(100).optional().describe('Jobs of this name.'),
  code: errorCode.optional().describe('Jobs that failed with this code.'),
  withinMs: bodyInt(1, MAX_WITHIN_MS).describe('Jobs that failed no longer ago than this.'),
  limit: bodyInt(1, MAX_REDRIVE).describe('At most this many at once, longest failed first; default 10,000.'),
  canary: bodyInt(0, MAX_CANARIES).describe('This many first; the rest only if all of them complete.'),
  canaryTimeoutMs: bodyInt(1, MAX_CANARY_MS).describe('How long to wait for the canaries; default 50,000.'),
});

export const redriveManyAnswer = z.object({
  matched: z.int().describe('Failed jobs that fit the filter, up to the limit; 0: none is left.'),
  redriven: z.int().describe('Of those, the ones that run again.'),
  failedCanaries: z
    .array(failure.extend({ id: z.uuid() }))
    .describe('Canaries that did not complete, and why. If there is one, the rest was left failed.'),
});

export const redriveAnswer = z.object({ id: z.uuid(), status: jobStatus, links });

export const eventsQuery = z.object({
  after: z
    .string()
    .optional()
    .describe('Cursor: the last seq already seen, or the last `id` of an event stream. By default from the start.'),
  lastEventId: z.string().optional().describe('Another name of `after`, as EventSource polyfills send it.'),
  limit: queryInt(1, MAX_PAGE_EVENTS).describe('Events in a JSON page, or fewer where they are large; 100 by default.'),
  wait: queryInt(0, MAX_WAIT_S).describe('How long a JSON page may wait for its first event, in seconds.'),
  ticket: z.string().optional().describe('A ticket for this stream, for clients that cannot set headers.'),
  token: z.string().optional().describe('The token, for clients that cannot set headers.'),
});

export const multiEventsQuery = z.object({
  streams: z.string().describe(`Ids of jobs with commas between, up to ${MAX_STREAMS}.`),
  after: z
    .string()
    .optional()
    .describe('Cursor: the last `id` that this list of streams gave. By default from the start.'),
  lastEventId: z.string().optional().describe('Another name of `after`, as EventSource polyfills send it.'),
  token: z.string().optional().describe('The token, for clients that cannot set headers.'),
});

export const eventsHeaders = z.looseObject({
  'last-event-id': z.string().optional().describe('Cursor; beats the ones in the query.'),
});

export const eventPage = z.object({
  events: z.array(z.object({ seq: z.int(), fence: z.int(), event: z.looseObject({ type: z.string() }) })),
  next: z.union([z.int(), z.string()]).describe('Cursor to ask with next.'),
  finished: z.boolean().describe('The terminal event is in this page or before it.'),
});

export const definitionsAnswer = z.object({
  jobs: z.array(
    z.object({
      name: z.string(),
      queue: z.string(),
      description: z.string(),
      input: z.record(z.string(), z.unknown()).describe('JSON Schema of the input.'),
      output: z
        .record(z.string(), z.unknown())
        .nullable()
        .describe('JSON Schema of the result, if the job declares one.'),
    }),
  ),
});
