/** Enqueueing, looking, following, waiting, cancelling: all that needs no worker. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import type { Selectable } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import {
  type DispatchRow,
  endAbandoned,
  findAttempts,
  findFailedJobs,
  findJob,
  findJobs,
  type RowOptions,
  redriveJob,
  requestCancel,
} from '../db/jobs.ts';
import { findHome } from '../db/outbox.ts';
import type { JobsTable } from '../db/schema.ts';
import {
  InputInvalidError,
  type Issue,
  JobFailedError,
  OncefleetError,
  type StoredFailure,
  toIssues,
  toStoredFailure,
} from '../errors.ts';
import type { Cursor } from '../journal/cursor.ts';
import type { JobEvent } from '../journal/event.ts';
import { type EventRun, type Following, failedFollowing } from '../journal/follower.ts';
import { rowTerminalJson } from '../journal/terminal.ts';
import { ending } from './abandon.ts';
import { type Accepted, acceptInTransaction, isKeyLocked } from './accept.ts';
import { openCallerTransaction } from './caller-transaction.ts';
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
} from './client-types.ts';
import { type AnyJobDefinition, type JobDefinition, MAX_TIMER_MS } from './define-job.ts';
import { checkKey, fingerprint, inputJson } from './fingerprint.ts';
import { Outcomes } from './outcomes.ts';
import type { Runtime } from './runtime.ts';
import { isUuid } from './uuid.ts';

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
  enqueue<I, O, E extends JobEvent>(
    job: JobDefinition<I, O, E>,
    input: I,
    options?: EnqueueOptions,
  ): Promise<JobHandle<O, E>>;
  enqueue(job: string, input: unknown, options?: EnqueueOptions): Promise<JobHandle>;
  /** `undefined`: no such job in this tenant. */
  get(id: string, options?: { tenant?: string }): Promise<JobRecord | undefined>;
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
   * The same a run at a time, for who passes events on as texts: `skip` takes a run without
   * parsing it, and its `source` is the same for all readers who are given it.
   */
  followRuns(id: string, options?: Omit<FollowOptions, 'types'>): AsyncGenerator<EventRun, void, undefined>;
  /** One page from the journal, without waiting. `finished` with no events: the cursor is at or past the end. */
  readEvents(id: string, options?: { tenant?: string; after?: Cursor; limit?: number }): Promise<EventPage>;
  /** @throws OncefleetError JOB_NOT_FOUND, WAIT_TIMEOUT; JobFailedError */
  result(id: string, options?: ResultOptions & { tenant?: string }): Promise<unknown>;
  /** Postgres and Redis, each `undefined` when it answers, else what is wrong. */
  health(): Promise<{ postgres: string | undefined; redis: string | undefined }>;
  close(): Promise<void>;
}

const DEFAULT_PAGE = 20;
const DEFAULT_EVENTS = 1_000;

/** How often a cancel looks again at a row that is locked; a quarter of a second in all. */
const CANCEL_ROUNDS = 5;

/** Failed jobs one call redrives. */
const MAX_REDRIVE = 10_000;
const REDRIVE_AT_ONCE = 20;
const CANARY_TIMEOUT_MS = 600_000;

/** BullMQ's own bound. */
const MAX_PRIORITY = 2_097_151;

/** @param jobs what may be enqueued; names are unique */
export function createJobClient(runtime: Runtime, jobs: readonly AnyJobDefinition[]): JobClient {
  const byName = new Map<string, AnyJobDefinition>();
  for (const job of jobs) {
    if (byName.has(job.name))
      throw new InputInvalidError('Jobs', [{ path: job.name, message: 'two jobs have this name' }]);
    byName.set(job.name, job);
    runtime.dispatcher.queue(job.queue);
  }
  const db = runtime.db.kysely;
  let closed = false;
  const outcomes = new Outcomes({ db, hub: runtime.hub, log: runtime.log });
  const tenantOf = (options: { tenant?: string | undefined }) => options.tenant ?? runtime.settings.tenant;

  let home: Promise<string | null> | undefined;
  function findOwnHome(): Promise<string | null> {
    if (home === undefined) {
      home = findHome(async (text) => (await runtime.db.pool.query(text)).rows);
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
    const definition = byName.get(typeof job === 'string' ? job : job.name);
    if (definition === undefined) {
      const name = typeof job === 'string' ? job : job.name;
      throw new OncefleetError(
        'JOB_NAME_UNKNOWN',
        `No job named "${name}" is registered; there are: ${[...byName.keys()].join(', ') || 'none'}`,
        {
          details: { name },
        },
      );
    }
    if (closed) throw new OncefleetError('SHUTTING_DOWN', 'This fleet is closed: enqueue through another');
    checkOptions(options);
    const parsed = definition.input.safeParse(input);
    if (!parsed.success) throw new InputInvalidError(`Input of job ${definition.name}`, toIssues(parsed.error.issues));
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
      fingerprint: fingerprint(input),
      input: inputJson(input),
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
      ...(policy.onStoreOutage === 'run' ? { input } : {}),
    });
    let accepted: Accepted;
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
      const run = await openCallerTransaction(options.tx, await findOwnHome());
      const { xid, ...answer } = await acceptInTransaction(run, wanted, policy.onFailedKey);
      accepted = answer;
      if (xid !== undefined) runtime.outbox.watch(xid, toDispatch(accepted.id));
    }
    const { id, outcome, status } = accepted;
    return {
      id,
      outcome,
      status,
      result: (wait: ResultOptions = {}) => waitForResult(id, wait) as Promise<never>,
      events: (options = {}) => follow(id, tenant, options) as Following<never>,
      cancel: () => cancel(id, { tenant }),
    };
  }

  function follow(streamId: string, tenant: string, options: FollowOptions): Following {
    const { after = -1, signal, types, committed } = options;
    const problem = followProblem(options) ?? (isUuid(streamId) ? undefined : notFound(streamId));
    if (problem !== undefined) return failedFollowing(problem, after);
    return runtime.followers.follow({ streamId, tenant, after, signal, types, committed });
  }

  async function cancel(id: string, options: { tenant?: string } = {}): Promise<CancelResult> {
    for (let round = 0; ; round++) {
      const met = isUuid(id) ? await requestCancel(db, tenantOf(options), id) : undefined;
      if (met === undefined) throw notFound(id);
      crashPoint('cancel.asked');
      if (met.status !== 'pending' && met.status !== 'running') {
        // In a later round: somebody else has ended it for us, or it ended by itself first.
        const outcome = round > 0 && met.status === 'cancelled' ? 'cancelled' : 'finished';
        return { status: met.status, outcome };
      }
      if (!met.live) {
        const ended = await endAbandoned(
          db,
          id,
          { resultTtlMs: runtime.settings.resultTtlMs, delivery: undefined },
          (row) => ending(id, row, Number.POSITIVE_INFINITY),
        );
        if (ended !== undefined) {
          crashPoint('cancel.ended');
          runtime.publisher.publish([{ run: ended.run, end: true }]);
          return { status: 'cancelled', outcome: 'cancelled' };
        }
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

  async function waitForResult(id: string, options: ResultOptions): Promise<unknown> {
    const timeout =
      options.timeoutMs === undefined ? undefined : AbortSignal.timeout(Math.min(options.timeoutMs, MAX_TIMER_MS));
    const signals = [options.signal, timeout].filter((signal) => signal !== undefined);
    try {
      const outcome = await outcomes.wait(id, signals.length === 0 ? undefined : AbortSignal.any(signals));
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
    const row = isUuid(id) ? await findJob(db, tenantOf(options), id) : undefined;
    if (row === undefined) throw notFound(id);
    const redriven = await redriveJob(db, id, (error) => rowTerminalJson({ status: 'failed', result: null, error }));
    if (redriven === undefined) {
      throw new OncefleetError('JOB_NOT_FAILED', `Job ${id} is ${row.status}; only failed jobs can be redriven`, {
        details: { jobId: id, status: row.status },
      });
    }
    crashPoint('redrive.row');
    const { tenant, name, queue, idempotency_key: key } = row;
    await runtime.dispatcher
      .redispatch({ id, tenant, name, queue, key, options: JSON.parse(row.options) as RowOptions, delayMs: 0 })
      .catch((err: unknown) =>
        runtime.log.warn({ err, jobId: id }, 'redriven but not dispatched; the reconciler will do it'),
      );
  }

  return {
    jobs: byName,
    get queues() {
      return runtime.dispatcher.queues;
    },
    enqueue,
    async get(id, options = {}) {
      if (!isUuid(id)) return undefined;
      const row = await findJob(db, tenantOf(options), id);
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
      const limit = options.limit ?? DEFAULT_PAGE;
      if (!Number.isInteger(limit) || limit < 1 || limit > 100)
        throw new InputInvalidError('Search', [{ path: 'limit', message: 'expected 1 to 100' }]);
      if (options.cursor !== undefined && !isUuid(options.cursor)) {
        throw new OncefleetError('CURSOR_INVALID', 'cursor: expected the nextCursor of an earlier page');
      }
      const { key, name, status, cursor } = options;
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
      const { canary = 0, limit = MAX_REDRIVE, signal } = options;
      if (!Number.isInteger(limit) || limit < 1 || limit > MAX_REDRIVE)
        throw new InputInvalidError('Redrive', [{ path: 'limit', message: `expected 1 to ${MAX_REDRIVE}` }]);
      if (!Number.isInteger(canary) || canary < 0)
        throw new InputInvalidError('Redrive', [{ path: 'canary', message: 'expected 0 or more' }]);
      const { name, code, withinMs } = options;
      const tenant = tenantOf(options);
      const ids = await findFailedJobs(db, { tenant, name, code, withinMs }, limit);
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
      const canaries = ids.slice(0, canary);
      const timeoutMs = options.canaryTimeoutMs ?? CANARY_TIMEOUT_MS;
      await Promise.all(
        canaries.map(async (id) => {
          if (!(await redriveOne(id))) return;
          await waitForResult(id, { timeoutMs, ...(signal === undefined ? {} : { signal }) }).catch(
            (error: unknown) => {
              signal?.throwIfAborted();
              result.failedCanaries.push({ id, ...toStoredFailure(error) });
            },
          );
        }),
      );
      if (result.failedCanaries.length > 0) return result;
      const rest = ids.slice(canary);
      for (let i = 0; i < rest.length; i += REDRIVE_AT_ONCE)
        await Promise.all(rest.slice(i, i + REDRIVE_AT_ONCE).map(redriveOne));
      return result;
    },
    follow: (id, options = {}) => follow(id, tenantOf(options), options),
    async *followRuns(id, options = {}) {
      if (!isUuid(id)) throw notFound(id);
      const { after = -1, signal, committed } = options;
      yield* runtime.followers.followRuns({ streamId: id, tenant: tenantOf(options), after, signal, committed });
    },
    async readEvents(id, options = {}) {
      if (!isUuid(id)) throw notFound(id);
      return runtime.followers.readPage(
        id,
        tenantOf(options),
        options.after ?? -1,
        options.limit ?? DEFAULT_EVENTS,
      ) satisfies Promise<EventPage>;
    },
    async result(id, options = {}) {
      if (!isUuid(id)) throw notFound(id);
      await runtime.followers.state(id, tenantOf(options));
      return waitForResult(id, options);
    },
    health: () => runtime.health(),
    async close() {
      closed = true;
      outcomes.close();
      await runtime.close();
    },
  };
}

const FOLLOW_OPTION_NAMES: ReadonlySet<string> = new Set([
  'tenant',
  'after',
  'signal',
  'types',
  'committed',
] satisfies (keyof FollowOptions)[]);

/** What is wrong with the options of a follower; a mistyped or misread one would give other events than asked for. */
function followProblem(options: FollowOptions): InputInvalidError | undefined {
  const issues: Issue[] = [];
  for (const name in options) {
    if (!FOLLOW_OPTION_NAMES.has(name))
      issues.push({ path: name, message: `no such option; there are: ${[...FOLLOW_OPTION_NAMES].join(', ')}` });
  }
  const { signal, types, committed } = options as { [name in keyof FollowOptions]: unknown };
  if (signal !== undefined && typeof (signal as AbortSignal | null)?.throwIfAborted !== 'function')
    issues.push({ path: 'signal', message: 'expected an AbortSignal' });
  if (committed !== undefined && typeof committed !== 'boolean')
    issues.push({ path: 'committed', message: 'expected true or false' });
  if (Array.isArray(types)) {
    for (const [i, type] of types.entries()) {
      if (typeof type !== 'string' || type === '')
        issues.push({ path: `types[${i}]`, message: 'expected the type of an event' });
    }
  } else if (types !== undefined) {
    issues.push({ path: 'types', message: 'expected an array of types of events' });
  }
  return issues.length === 0 ? undefined : new InputInvalidError('Follow options', issues);
}

function notFound(id: string): OncefleetError {
  return new OncefleetError('JOB_NOT_FOUND', `No job ${id.slice(0, 100)}`, { details: { jobId: id.slice(0, 100) } });
}

function keyLocked(name: string, cause: unknown): OncefleetError {
  return new OncefleetError(
    'STORE_UNAVAILABLE',
    `The key of this ${name} job is held by a transaction that has not ended; try again once it has`,
    { cause },
  );
}

/** @throws OncefleetError KEY_INVALID; InputInvalidError */
const OPTION_NAMES: ReadonlySet<string> = new Set([
  'tenant',
  'key',
  'delayMs',
  'priority',
  'tx',
] satisfies (keyof EnqueueOptions)[]);

function checkOptions(options: EnqueueOptions): void {
  for (const name in options) {
    // A mistyped `key` would be a job without one.
    if (!OPTION_NAMES.has(name))
      throw new InputInvalidError('Enqueue options', [
        { path: name, message: `no such option; there are: ${[...OPTION_NAMES].join(', ')}` },
      ]);
  }
  if (options.tenant === '')
    throw new InputInvalidError('Enqueue options', [{ path: 'tenant', message: 'expected at least one character' }]);
  if (options.key !== undefined) checkKey(options.key);
  const { delayMs, priority } = options;
  if (delayMs !== undefined && (!Number.isFinite(delayMs) || delayMs < 0)) {
    throw new InputInvalidError('Enqueue options', [{ path: 'delayMs', message: 'expected 0 or more milliseconds' }]);
  }
  if (priority !== undefined && (!Number.isInteger(priority) || priority < 0 || priority > MAX_PRIORITY)) {
    throw new InputInvalidError('Enqueue options', [
      { path: 'priority', message: `expected an integer from 0 to ${MAX_PRIORITY}` },
    ]);
  }
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
