/** Enqueueing, looking, following, waiting, cancelling: all that needs no worker. */

import { setTimeout as delay } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import type { Selectable } from 'kysely';
import { z } from 'zod';
import { crashPoint } from '../crash-points.ts';
import { requestCancel } from '../db/jobs/cancel.ts';
import { findAttempts, findFailedJobs, findJob, findJobs } from '../db/jobs/find.ts';
import type { RowOptions } from '../db/jobs/insert.ts';
import { redriveJob } from '../db/jobs/redrive.ts';
import { isTerminalStatus, JOB_STATUSES } from '../db/jobs/states.ts';
import { type DispatchRow, toDispatchRow } from '../db/jobs/unfinished.ts';
import { findHome } from '../db/outbox.ts';
import { qualify } from '../db/own-schema.ts';
import type { JobsTable } from '../db/schema.ts';
import { type Accepted, acceptInTransaction, isKeyLocked } from '../enqueue/accept.ts';
import { openCallerTransaction } from '../enqueue/caller-transaction.ts';
import { checkKey, fingerprint } from '../enqueue/fingerprint.ts';
import { checkedInput } from '../enqueue/input.ts';
import {
  ERROR_CODES,
  type ErrorCode,
  InputInvalidError,
  JobFailedError,
  OncefleetError,
  type StoredFailure,
  toStoredFailure,
} from '../errors.ts';
import type { AnyJobDefinition, JobDefinition } from '../jobs/define-job.ts';
import type { FollowedBatch } from '../journal/batches.ts';
import type { Cursor } from '../journal/cursor.ts';
import type { JobEvent } from '../journal/event.ts';
import type { FollowStreamOptions } from '../journal/follower.ts';
import { type Following, failedFollowing } from '../journal/following.ts';
import {
  abortSignal,
  aFunction,
  MAX_TIMER_MS,
  parseOptions,
  searchText,
  tenantName,
  waitMs,
  wholeNumber,
} from '../options.ts';
import { finishJob } from '../runtime/finish-job.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { isUuid } from '../util/uuid.ts';
import { Operator } from './operator.ts';
import { Outcomes } from './outcomes.ts';
import type {
  AttemptRecord,
  CancelResult,
  EnqueueOptions,
  EventPage,
  FindOptions,
  FollowOptions,
  JobHandle,
  JobPage,
  JobRecord,
  RedriveManyOptions,
  RedriveManyResult,
  ResultOptions,
} from './types.ts';

export interface JobClient {
  /** Every registered job, by name. */
  readonly jobs: ReadonlyMap<string, AnyJobDefinition>;
  /** One BullMQ queue per distinct queue name, for Bull Board. */
  readonly queues: readonly Queue[];
  /**
   * Commits the job's row, then gives it to BullMQ. With Redis away it is still accepted.
   *
   * With `tx` the row is part of the caller's transaction, and is dispatched once that commits.
   *
   * @throws InputInvalidError; OncefleetError JOB_NAME_UNKNOWN, KEY_INVALID, KEY_MISMATCH,
   *   TRANSACTION_INVALID; STORE_UNAVAILABLE an open transaction holds the key for too long
   */
  enqueue<I, O, E extends JobEvent, In>(
    job: JobDefinition<I, O, E, In>,
    input: In,
    options?: EnqueueOptions,
  ): Promise<JobHandle<O, E>>;
  enqueue(job: string, input: unknown, options?: EnqueueOptions): Promise<JobHandle>;
  /** `undefined`: no such job in this tenant. */
  get(id: string, options?: { tenant?: string }): Promise<JobRecord | undefined>;
  /** @throws InputInvalidError; OncefleetError KEY_INVALID, CURSOR_INVALID */
  find(options?: FindOptions): Promise<JobPage>;
  /** @throws OncefleetError JOB_NOT_FOUND */
  cancel(id: string, options?: { tenant?: string }): Promise<CancelResult>;
  /** @throws OncefleetError JOB_NOT_FOUND, JOB_NOT_FAILED */
  redrive(id: string, options?: { tenant?: string }): Promise<void>;
  /** Redrives failed jobs that match, canaries first. @throws InputInvalidError; the signal's reason */
  redriveMany(options?: RedriveManyOptions): Promise<RedriveManyResult>;
  /** @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID, STREAM_EXPIRED (on a `next()`) */
  follow(id: string, options?: FollowOptions): Following;
  /**
   * The same in batches, for callers that forward raw JSON: `skip` takes a batch without
   * parsing it, and its `source` is the same for all readers that are given it.
   */
  followBatches(id: string, options?: Omit<FollowOptions, 'types'>): AsyncGenerator<FollowedBatch, void, undefined>;
  /** One page from the journal, without waiting. `finished` with no events: the cursor is at or past the end. */
  readEvents(id: string, options?: { tenant?: string; after?: Cursor; limit?: number }): Promise<EventPage>;
  /** @throws OncefleetError JOB_NOT_FOUND, WAIT_TIMEOUT; JobFailedError */
  result(id: string, options?: ResultOptions & { tenant?: string }): Promise<unknown>;
  /**
   * Pauses a queue: its running jobs go on, no others start. It stays paused over a flush or a restart of Redis.
   *
   * @param options.by what pauses it, for people
   * @throws InputInvalidError no such queue; OncefleetError SERVICE_MISSING Redis does not answer
   */
  pauseQueue(name: string, options?: { by?: string }): Promise<void>;
  /** @throws InputInvalidError no such queue; OncefleetError SERVICE_MISSING Redis does not answer */
  resumeQueue(name: string): Promise<void>;
  /** What Bull Board does to queues and jobs, of all tenants. */
  readonly operator: Operator;
  /** Postgres and Redis, each `undefined` when it answers, else what is wrong. */
  health(): Promise<{ postgres: string | undefined; redis: string | undefined }>;
  close(): Promise<void>;
}

const DEFAULT_PAGE = 20;
const MAX_PAGE = 100;
const DEFAULT_EVENTS = 1_000;
const MAX_EVENTS = 10_000;

/** How often a cancel looks again at a row that is locked; a quarter of a second in all. */
const CANCEL_ROUNDS = 5;

/** Failed jobs one call redrives. */
const MAX_REDRIVE = 10_000;
const REDRIVE_AT_ONCE = 20;
const CANARY_TIMEOUT_MS = 600_000;

/** BullMQ's own bound. */
const MAX_PRIORITY = 2_097_151;

/** A hundred years; far more is no date of Postgres's. */
const MAX_DELAY_MS = 3_155_760_000_000;

/** A number or a text; which of them are cursors of a stream, the stream says (CURSOR_INVALID). */
const cursor = z.union([z.number(), z.string()], 'expected a cursor: a number or a text');
const tenantShape = { tenant: tenantName.optional() };
const tenantSchema = z.strictObject(tenantShape);
const waitShape = { signal: abortSignal.optional(), timeoutMs: waitMs.optional() };

const enqueueSchema = z.strictObject({
  ...tenantShape,
  // Its contents are KEY_INVALID's matter.
  key: z.string().optional(),
  delayMs: waitMs.refine((ms) => ms <= MAX_DELAY_MS, `expected at most ${MAX_DELAY_MS}`).optional(),
  priority: wholeNumber({ min: 0, max: MAX_PRIORITY }).optional(),
  // What is no transaction is TRANSACTION_INVALID.
  tx: z.unknown().optional(),
} satisfies Record<keyof EnqueueOptions, z.ZodType>);

const followShape = {
  after: cursor.optional(),
  signal: abortSignal.optional(),
  types: z.array(z.string().min(1, 'expected the type of an event'), 'expected an array of types of events').optional(),
  committed: z.boolean().optional(),
};
const eventsSchema = z.strictObject(followShape);
const followSchema = z.strictObject({ ...tenantShape, ...followShape } satisfies Record<
  keyof FollowOptions,
  z.ZodType
>);
const waitSchema = z.strictObject(waitShape satisfies Record<keyof ResultOptions, z.ZodType>);
const resultSchema = z.strictObject({ ...tenantShape, ...waitShape });
const readSchema = z.strictObject({
  ...tenantShape,
  after: cursor.optional(),
  limit: wholeNumber({ min: 1, max: MAX_EVENTS }).optional(),
});

const pauseSchema = z.strictObject({ by: searchText.optional() });

const findSchema = z.strictObject({
  ...tenantShape,
  // As with enqueue, its contents are KEY_INVALID's matter.
  key: z.string().optional(),
  name: searchText.optional(),
  status: z.enum(JOB_STATUSES).optional(),
  // A text that is none is CURSOR_INVALID.
  cursor: z.string().optional(),
  limit: wholeNumber({ min: 1, max: MAX_PAGE }).optional(),
} satisfies Record<keyof FindOptions, z.ZodType>);

const redriveSchema = z.strictObject({
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

/** @param jobs what may be enqueued; names are unique */
export function createJobClient(runtime: Runtime, jobs: readonly AnyJobDefinition[]): JobClient {
  const byName = new Map<string, AnyJobDefinition>();
  for (const job of jobs) {
    byName.set(job.name, job);
    runtime.dispatcher.queue(job.queue);
  }
  const { kysely: db, schema } = runtime.db;
  let closed = false;
  const outcomes = new Outcomes({ db, hub: runtime.hub, log: runtime.log });
  const tenantOf = (options: { tenant?: string | undefined }) => options.tenant ?? runtime.settings.tenant;
  /** @throws InputInvalidError */
  const tenantIn = (what: string, options: unknown) => tenantOf(parseOptions(what, tenantSchema, options));

  let home: Promise<string | null> | undefined;
  function findOwnHome(): Promise<string | null> {
    if (home === undefined) {
      home = findHome(async (text) => (await runtime.db.pool.query(qualify(text, schema))).rows);
      home.catch(() => {
        home = undefined;
      });
    }
    return home;
  }

  async function enqueue(
    job: AnyJobDefinition | string,
    input: unknown,
    options: EnqueueOptions = {},
  ): Promise<JobHandle<never, never>> {
    const name = typeof job === 'string' ? job : (job as AnyJobDefinition | undefined)?.name;
    if (typeof name !== 'string')
      throw new InputInvalidError('enqueue', [{ path: 'job', message: 'expected a job definition or its name' }]);
    const definition = byName.get(name);
    if (definition === undefined) {
      throw new OncefleetError(
        'JOB_NAME_UNKNOWN',
        `No job named "${name}" is registered; there are: ${[...byName.keys()].join(', ') || 'none'}`,
        {
          details: { name },
        },
      );
    }
    if (closed) throw new OncefleetError('SHUTTING_DOWN', 'This fleet is closed: enqueue through another');
    parseOptions('Enqueue options', enqueueSchema, options);
    if (options.key !== undefined) checkKey(options.key);
    const carried = checkedInput(definition, input);
    const tenant = tenantOf(options);
    const { policy } = definition;
    const rowOptions: RowOptions = {
      priority: options.priority ?? 0,
      attempts: policy.attempts,
      backoff: policy.backoff,
      ...(policy.publish === 'immediate' ? { publish: policy.publish } : {}),
    };
    const wanted = {
      tenant,
      name: definition.name,
      queue: definition.queue,
      key: options.key ?? null,
      // What the caller sent, not what the schema made of it: that may change with a release.
      fingerprint: fingerprint(carried.value),
      input: carried.text,
      options: rowOptions,
      delayMs: options.delayMs ?? 0,
      deadlineMs: policy.deadlineMs ?? null,
    };
    const toDispatch = (id: string): DispatchRow => ({
      id,
      tenant,
      name: definition.name,
      queue: definition.queue,
      key: options.key ?? null,
      options: rowOptions,
      delayMs: options.delayMs ?? 0,
      ...(policy.onStoreOutage === 'run' ? { input: carried.value } : {}),
    });
    let accepted: Accepted;
    let xid: string | undefined;
    if (options.tx === undefined) {
      crashPoint('enqueue.row.before');
      accepted = await runtime.acceptor.accept(wanted, policy.onFailedKey).catch((error: unknown) => {
        throw isKeyLocked(error) ? keyLocked(definition.name, error) : error;
      });
      if (accepted.outcome === 'created') {
        crashPoint('enqueue.row.after');
        await runtime.outbox.dispatch(toDispatch(accepted.id));
        crashPoint('enqueue.dispatch.after');
      }
    } else {
      const run = await openCallerTransaction(options.tx, { home: await findOwnHome(), schema });
      ({ xid, ...accepted } = await acceptInTransaction(run, wanted, policy.onFailedKey));
      if (xid !== undefined && accepted.outcome === 'created') runtime.outbox.watch(xid, toDispatch(accepted.id));
    }
    const { id, outcome, status } = accepted;
    return {
      id,
      outcome,
      status,
      async result(wait: ResultOptions = {}) {
        parseOptions('result', waitSchema, wait);
        return waitForResult(id, wait, xid) as Promise<never>;
      },
      events: (given = {}) => follow('events', eventsSchema, id, tenant, given) as Following<never>,
      cancel: () => cancel(id, { tenant }),
    };
  }

  function follow(
    what: string,
    schema: z.ZodType,
    id: string,
    tenant: string,
    options: Omit<FollowOptions, 'tenant'>,
  ): Following {
    try {
      parseOptions(what, schema, options);
    } catch (error) {
      return failedFollowing(error as Error, -1);
    }
    const { after = -1, signal, types, committed } = options;
    const wanted: FollowStreamOptions = { streamId: id, tenant, after, signal, types, committed };
    return isUuid(id) ? runtime.followers.follow(wanted) : failedFollowing(notFound(id), after);
  }

  async function cancel(id: string, options: { tenant?: string } = {}): Promise<CancelResult> {
    const tenant = tenantIn('cancel', options);
    for (let round = 0; ; round++) {
      const met = isUuid(id) ? await requestCancel(db, tenant, id) : undefined;
      if (met === undefined) throw notFound(id);
      crashPoint('cancel.asked');
      if (isTerminalStatus(met.status)) {
        // In a later round: somebody else has ended it for us, or it ended by itself first.
        const outcome = round > 0 && met.status === 'cancelled' ? 'cancelled' : 'finished';
        return { status: met.status, outcome };
      }
      if (!met.live) {
        const finished = await finishJob(runtime, id, {
          definition: undefined,
          cancel: 'requested',
          committed: 'cancel.ended',
        });
        if (finished !== undefined) return { status: 'cancelled', outcome: 'cancelled' };
        // Its row is locked: by a claim, which will see the cancel, or by who ends it just now.
        if (round < CANCEL_ROUNDS) {
          await delay(2 ** round * 5);
          continue;
        }
      }
      // Somebody runs it: they hear it here, or at the next heartbeat.
      runtime.control.cancel(id);
      return { status: met.status, outcome: 'requested' };
    }
  }

  /** @param xid the job may be a part of this transaction, and never be if it is rolled back */
  async function waitForResult(id: string, options: ResultOptions, xid?: string): Promise<unknown> {
    const timeout =
      options.timeoutMs === undefined
        ? undefined
        : AbortSignal.timeout(Math.ceil(Math.min(options.timeoutMs, MAX_TIMER_MS)));
    const signals = [options.signal, timeout].filter((signal) => signal !== undefined);
    try {
      const outcome = await outcomes.wait(id, signals.length === 0 ? undefined : AbortSignal.any(signals), xid);
      if (outcome.status === 'completed') return outcome.result === null ? undefined : JSON.parse(outcome.result);
      const failure = JSON.parse(outcome.error ?? 'null') as StoredFailure | null;
      const status = outcome.status === 'cancelled' ? 'cancelled' : 'failed';
      throw new JobFailedError(
        id,
        status,
        failure ?? { code: status === 'cancelled' ? 'CANCELLED' : 'INTERNAL', message: `Job ${id} was ${status}` },
      );
    } catch (error) {
      if (timeout?.aborted === true && error === timeout.reason) {
        throw new OncefleetError('WAIT_TIMEOUT', `Job ${id} has not ended within ${options.timeoutMs} ms; it goes on`, {
          details: { jobId: id },
        });
      }
      throw error;
    }
  }

  async function redrive(id: string, options: { tenant?: string } = {}): Promise<void> {
    const ownTenant = tenantIn('redrive', options);
    const row = isUuid(id) ? await findJob(db, ownTenant, id) : undefined;
    if (row === undefined) throw notFound(id);
    const redriven = await redriveJob(db, id);
    if (redriven === undefined) {
      throw new OncefleetError('JOB_NOT_FAILED', `Job ${id} is ${row.status}; only failed jobs can be redriven`, {
        details: { jobId: id, status: row.status },
      });
    }
    crashPoint('redrive.row');
    await runtime.dispatcher
      .redispatch(toDispatchRow(row))
      .catch((err: unknown) =>
        runtime.log.warn({ err, jobId: id }, 'redriven but not dispatched; the reconciler will do it'),
      );
  }

  const operator = new Operator({ runtime, jobs: byName, enqueue, redrive });

  /** @throws InputInvalidError */
  function queueOf(what: string, name: string): Queue {
    const names = [...new Set([...byName.values()].map((job) => job.queue))];
    if (names.includes(name)) return runtime.dispatcher.queue(name);
    throw new InputInvalidError(what, [{ path: 'name', message: `expected one of ${names.join(', ') || 'none'}` }]);
  }

  return {
    jobs: byName,
    get queues() {
      return runtime.dispatcher.queues;
    },
    enqueue,
    async get(id, options = {}) {
      const tenant = tenantIn('get', options);
      if (!isUuid(id)) return undefined;
      const row = await findJob(db, tenant, id);
      if (row === undefined) return undefined;
      const attempts = await findAttempts(db, id);
      return {
        ...toRecord(row),
        progress: toProgress(row.progress),
        attempts: attempts.map((attempt) => ({
          fence: attempt.fence,
          worker: attempt.worker,
          host: attempt.host,
          startedAt: attempt.started_at.toISOString(),
          finishedAt: attempt.finished_at?.toISOString() ?? null,
          outcome: attempt.outcome as AttemptRecord['outcome'],
          error: attempt.error === null ? null : JSON.parse(attempt.error),
        })),
      };
    },
    async find(options = {}) {
      const { limit = DEFAULT_PAGE } = parseOptions('Search', findSchema, options);
      if (options.cursor !== undefined && !isUuid(options.cursor)) {
        throw new OncefleetError('CURSOR_INVALID', 'cursor: expected the nextCursor of an earlier page');
      }
      const { key, name, status, cursor } = options;
      if (key !== undefined) checkKey(key);
      const rows = await findJobs(db, {
        tenant: tenantOf(options),
        key,
        name,
        status,
        before: cursor,
        limit: limit + 1,
      });
      const page = rows.slice(0, limit);
      return {
        jobs: page.map(toRecord),
        nextCursor: rows.length > limit ? (page.at(-1)?.id ?? null) : null,
      } satisfies JobPage;
    },
    cancel,
    redrive,
    async redriveMany(options = {}) {
      parseOptions('Redrive', redriveSchema, options);
      const { canary = 0, limit = MAX_REDRIVE, signal, name, code, withinMs } = options;
      const tenant = tenantOf(options);
      const ids = await findFailedJobs(
        db,
        { tenant, name, code, withinMs: Number.isFinite(withinMs) ? withinMs : undefined },
        limit,
      );
      const result: RedriveManyResult = { matched: ids.length, redriven: 0, failedCanaries: [] };
      const redriveOne = async (id: string): Promise<boolean> => {
        signal?.throwIfAborted();
        // Another operator may have been faster: what is no longer failed is left alone.
        const redriven = await redrive(id, { tenant }).then(
          () => true,
          (error: unknown) => {
            if (error instanceof OncefleetError && (error.code === 'JOB_NOT_FAILED' || error.code === 'JOB_NOT_FOUND'))
              return false;
            throw error;
          },
        );
        if (!redriven) return false;
        result.redriven++;
        options.onProgress?.({ redriven: result.redriven, matched: ids.length });
        return true;
      };
      const redriveAll = async (wanted: readonly string[]): Promise<string[]> => {
        const redriven: string[] = [];
        for (let i = 0; i < wanted.length; i += REDRIVE_AT_ONCE) {
          const chunk = wanted.slice(i, i + REDRIVE_AT_ONCE);
          // Settled, all of them: who is told of a failure must not have jobs redriven after that.
          const settled = await Promise.allSettled(chunk.map(redriveOne));
          for (const [at, outcome] of settled.entries()) {
            if (outcome.status === 'rejected') throw outcome.reason;
            if (outcome.value) redriven.push(chunk[at] as string);
          }
        }
        return redriven;
      };
      const canaries = await redriveAll(ids.slice(0, canary));
      const timeoutMs = options.canaryTimeoutMs ?? CANARY_TIMEOUT_MS;
      await Promise.all(
        canaries.map(async (id) => {
          await waitForResult(id, { timeoutMs, ...(signal === undefined ? {} : { signal }) }).catch(
            (error: unknown) => {
              signal?.throwIfAborted();
              result.failedCanaries.push({ id, ...toStoredFailure(error) });
            },
          );
        }),
      );
      if (result.failedCanaries.length > 0) return result;
      await redriveAll(ids.slice(canary));
      return result;
    },
    follow: (id, options = {}) =>
      follow('follow', followSchema, id, options?.tenant ?? runtime.settings.tenant, options),
    async *followBatches(id, options = {}) {
      parseOptions('followBatches', followSchema.omit({ types: true }), options);
      if (!isUuid(id)) throw notFound(id);
      const { after = -1, signal, committed, tenant = runtime.settings.tenant } = options;
      yield* runtime.followers.followBatches({ streamId: id, tenant, after, signal, committed });
    },
    async readEvents(id, options = {}) {
      const { tenant } = parseOptions('readEvents', readSchema, options);
      if (!isUuid(id)) throw notFound(id);
      return runtime.followers.readPage(
        id,
        tenantOf({ tenant }),
        options.after ?? -1,
        options.limit ?? DEFAULT_EVENTS,
      ) satisfies Promise<EventPage>;
    },
    async result(id, options = {}) {
      const { tenant } = parseOptions('result', resultSchema, options);
      if (!isUuid(id)) throw notFound(id);
      await runtime.followers.state(id, tenantOf({ tenant }));
      return waitForResult(id, options);
    },
    async pauseQueue(name, options = {}) {
      const { by = 'program' } = parseOptions('pauseQueue', pauseSchema, options);
      await operator.pause(queueOf('pauseQueue', name), by);
    },
    async resumeQueue(name) {
      await operator.resume(queueOf('resumeQueue', name));
    },
    operator,
    health: () => runtime.health(),
    async close() {
      closed = true;
      outcomes.close();
      await runtime.close();
    },
  };
}

function notFound(id: unknown): OncefleetError {
  const jobId = String(id).slice(0, 100);
  return new OncefleetError('JOB_NOT_FOUND', `No job ${jobId}`, { details: { jobId } });
}

function keyLocked(name: string, cause: unknown): OncefleetError {
  return new OncefleetError(
    'STORE_UNAVAILABLE',
    `The key of this ${name} job is held by a transaction that has not ended; try again once it has`,
    { cause },
  );
}

function toProgress(json: string | null): JobRecord['progress'] {
  if (json === null) return null;
  const { type: _type, ...progress } = JSON.parse(json) as { type: string; done: number };
  return progress;
}

function toRecord(row: Selectable<JobsTable>): Omit<JobRecord, 'attempts' | 'progress'> {
  return {
    id: row.id,
    tenant: row.tenant,
    name: row.name,
    queue: row.queue,
    key: row.idempotency_key,
    status: row.status,
    fence: row.fence,
    input: JSON.parse(row.input),
    result: row.result === null ? null : JSON.parse(row.result),
    error: row.error === null ? null : JSON.parse(row.error),
    crashCount: row.crash_count,
    errorCount: row.error_count,
    deferralCount: row.deferral_count,
    interruptionCount: row.interruption_count,
    runAt: row.run_at.toISOString(),
    createdAt: row.created_at.toISOString(),
    startedAt: row.started_at?.toISOString() ?? null,
    finishedAt: row.finished_at?.toISOString() ?? null,
    expiresAt: row.expires_at?.toISOString() ?? null,
    cancelRequestedAt: row.cancel_requested_at?.toISOString() ?? null,
    leaseOwner: row.lease_owner,
  };
}
