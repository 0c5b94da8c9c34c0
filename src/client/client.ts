/** Enqueueing, looking, following, waiting, cancelling: all that needs no worker. One file an operation. */
import type { Queue } from 'bullmq';
import { InputInvalidError } from '../errors.ts';
import type { AnyJobDefinition, JobDefinition } from '../jobs/define-job.ts';
import type { FollowedBatch } from '../journal/batches.ts';
import type { Cursor } from '../journal/cursor.ts';
import type { JobEvent } from '../journal/event.ts';
import type { Following } from '../journal/following.ts';
import { parseOptions } from '../options.ts';
import type { HealthReport } from '../runtime/health.ts';
import type { JobObserver } from '../runtime/observers.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { type Access, createAccess, type Tokens } from './access/access.ts';
import { cancelJob } from './cancel.ts';
import { cancelMany } from './cancel-many.ts';
import { type Chats, createChats } from './chats.ts';
import { type Collections, createCollections } from './collections.ts';
import { enqueueJob } from './enqueue.ts';
import { enqueueMany } from './enqueue-many.ts';
import { followJob, followJobBatches, readEvents } from './follow.ts';
import { createHost } from './host.ts';
import { createInspector, type Inspector } from './inspector.ts';
import { createOperator, type Operator } from './operator/operator.ts';
import { followSchema, pauseSchema } from './options.ts';
import { findPage, getJob } from './read.ts';
import { redriveJob, redriveMany } from './redrive.ts';
import { resultOf } from './results.ts';
import { createSchedules } from './schedules/schedules.ts';
import type { Schedules } from './schedules/types.ts';
import type {
  BulkItem,
  CancelManyOptions,
  CancelManyResult,
  CancelResult,
  EnqueueManyOptions,
  EnqueueManyResult,
  EnqueueOptions,
  EventPage,
  FindOptions,
  FollowBatchesOptions,
  FollowOptions,
  GetOptions,
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
   * Commits the job's row, then gives it to BullMQ. With Redis unreachable it is still accepted.
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
  /**
   * Enqueues many jobs, up to 100,000, in chunks of 500 and 4 MiB: one insert each. An item that is refused keeps no other
   * from being accepted. With `tx` all rows are part of the caller's transaction.
   *
   * @throws InputInvalidError the list or the options; TRANSACTION_INVALID; what Postgres says, when it fails before anything was
   *   accepted or in the caller's transaction, which is then spoilt; the signal's reason
   */
  enqueueMany<I, O, E extends JobEvent, In>(
    job: JobDefinition<I, O, E, In>,
    items: readonly BulkItem<In>[],
    options?: EnqueueManyOptions,
  ): Promise<EnqueueManyResult<O, E>>;
  enqueueMany(job: string, items: readonly BulkItem[], options?: EnqueueManyOptions): Promise<EnqueueManyResult>;
  /** The same with jobs of several definitions in one list. */
  enqueueMany(
    items: readonly (BulkItem & { job: AnyJobDefinition | string })[],
    options?: EnqueueManyOptions,
  ): Promise<EnqueueManyResult>;
  /** `undefined`: no such job in this tenant. */
  get(id: string, options?: GetOptions): Promise<JobRecord | undefined>;
  /** Newest first, without inputs and results. @throws InputInvalidError; OncefleetError KEY_INVALID, CURSOR_INVALID */
  find(options?: FindOptions): Promise<JobPage>;
  /** @throws OncefleetError JOB_NOT_FOUND */
  cancel(id: string, options?: { tenant?: string }): Promise<CancelResult>;
  /**
   * Cancels unfinished jobs that match, in pages of 500: others are enqueued, claimed and finished meanwhile. With nothing
   * given, all of the tenant's.
   *
   * @throws InputInvalidError; the signal's reason
   */
  cancelMany(options?: CancelManyOptions): Promise<CancelManyResult>;
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
  followBatches(id: string, options?: FollowBatchesOptions): AsyncGenerator<FollowedBatch, void, undefined>;
  /**
   * One page from the journal, without waiting; it has fewer events than `limit` where they are large (4 Mi characters).
   * `finished` with no events: the cursor is at or past the end. A limit of 0 asks that alone.
   */
  readEvents(id: string, options?: { tenant?: string; after?: Cursor; limit?: number }): Promise<EventPage>;
  /** @throws OncefleetError JOB_NOT_FOUND, WAIT_TIMEOUT; JobFailedError */
  result(id: string, options?: ResultOptions & { tenant?: string }): Promise<unknown>;
  /**
   * Pauses a queue: its running jobs continue, no others start. It stays paused over a flush or a restart of Redis.
   *
   * @param options.by what pauses it, for people
   * @throws InputInvalidError no such queue; OncefleetError SERVICE_MISSING Redis does not answer
   */
  pauseQueue(name: string, options?: { by?: string }): Promise<void>;
  /** @throws InputInvalidError no such queue; OncefleetError SERVICE_MISSING Redis does not answer */
  resumeQueue(name: string): Promise<void>;
  /** What `ingest` has written: collections, their documents and chunks. */
  readonly collections: Collections;
  /** Jobs at times. */
  readonly schedules: Schedules;
  /** Tokens of the API. */
  readonly tokens: Tokens;
  /** What the web process asks of those who call. @internal */
  readonly access: Access;
  /** What the console shows, of all tenants. @internal */
  readonly inspector: Inspector;
  /** What clients of chat APIs asked for. @internal */
  readonly chats: Chats;
  /** What Bull Board does to queues and jobs, of all tenants. */
  readonly operator: Operator;
  /**
   * Tells an observer of every transition that this process makes, in order and after its commit.
   * It is told in the background, and may be slow or throw: the jobs do not feel it.
   *
   * @returns ends that
   * @throws InputInvalidError it is no function
   */
  observe(observer: JobObserver): () => void;
  /**
   * Postgres and Redis, each `undefined` when it answers and takes writes, else what is wrong. Writes a row and a key
   * of its own, at most every two seconds.
   */
  health(): Promise<HealthReport>;
  close(): Promise<void>;
}

/** @param jobs what may be enqueued; names are unique */
export function createJobClient(runtime: Runtime, jobs: readonly AnyJobDefinition[]): JobClient {
  const byName = new Map<string, AnyJobDefinition>();
  for (const job of jobs) {
    byName.set(job.name, job);
    runtime.dispatcher.queue(job.queue);
  }
  const host = createHost(runtime, byName);
  const enqueue = (job: AnyJobDefinition | string, input: unknown, options?: EnqueueOptions) =>
    enqueueJob(host, job, input, options);
  const redrive = (id: string, options?: { tenant?: string }) => redriveJob(host, id, options);
  const operator = createOperator({
    runtime,
    jobs: byName,
    enqueue: (job, input, options) => enqueueJob(host, job, input, options, 'board'),
    redrive: (id, options) => redriveJob(host, id, options, 'board'),
  });
  return {
    jobs: byName,
    get queues() {
      return runtime.dispatcher.queues;
    },
    enqueue,
    get: (id, options) => getJob(host, id, options),
    find: (options) => findPage(host, options),
    enqueueMany: ((...given: unknown[]) => {
      const [job, items, options] = Array.isArray(given[0]) ? [undefined, ...given] : given;
      return enqueueMany(host, job as string, items as never, options as EnqueueManyOptions | undefined);
    }) as JobClient['enqueueMany'],
    cancel: (id, options) => cancelJob(host, id, options),
    cancelMany: (options) => cancelMany(host, options),
    redrive,
    redriveMany: (options) => redriveMany(host, options),
    follow: (id, options = {}) =>
      followJob(host, 'follow', followSchema, id, options?.tenant ?? runtime.settings.tenant, options),
    followBatches: (id, options) => followJobBatches(host, id, options),
    readEvents: (id, options) => readEvents(host, id, options),
    result: (id, options) => resultOf(host, id, options),
    async pauseQueue(name, options = {}) {
      const { by = 'program' } = parseOptions('pauseQueue', pauseSchema, options);
      await operator.pause(queueOf(runtime, byName, 'pauseQueue', name), by);
    },
    async resumeQueue(name) {
      await operator.resume(queueOf(runtime, byName, 'resumeQueue', name));
    },
    collections: createCollections(host),
    schedules: createSchedules(host),
    ...createAccess(host),
    inspector: createInspector(host, () => runtime.dispatcher.queues),
    chats: createChats(host),
    operator,
    observe: (observer) => runtime.observers.observe(observer),
    health: () => runtime.health(),
    async close() {
      host.closed = true;
      host.outcomes.close();
      await runtime.close();
    },
  };
}

/** @throws InputInvalidError */
function queueOf(
  { dispatcher }: Runtime,
  jobs: ReadonlyMap<string, AnyJobDefinition>,
  what: string,
  name: string,
): Queue {
  const names = [...new Set([...jobs.values()].map((job) => job.queue))];
  if (names.includes(name)) return dispatcher.queue(name);
  throw new InputInvalidError(what, [{ path: 'name', message: `expected one of ${names.join(', ') || 'none'}` }]);
}
