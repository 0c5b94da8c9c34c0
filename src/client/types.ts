/** The shapes that `JobClient` takes and gives; HTTP, CLI and library users share them. */
import type { JobStatus } from '../db/jobs/states.ts';
import type { EnqueueOutcome } from '../enqueue/accept.ts';
import type { CallerTransaction } from '../enqueue/caller-transaction.ts';
import type { ErrorCode, OncefleetError } from '../errors.ts';
import type { Cursor } from '../journal/cursor.ts';
import type { JobEvent, StreamEvent } from '../journal/event.ts';
import type { Following } from '../journal/following.ts';

export type { EnqueueOutcome, JobStatus };

export interface EnqueueOptions {
  tenant?: string;
  /** 1 to 255 bytes, no control characters. Without one, a new job. */
  key?: string;
  /** Not before this many ms from now. */
  delayMs?: number;
  /** BullMQ priority: 1 is first, 0 (default) is before all of those. */
  priority?: number;
  /**
   * A transaction of yours on the fleet's database: rolled back, the job never was; committed,
   * it runs. Follow it only after the commit; its result may be waited for before.
   */
  tx?: CallerTransaction;
}

/** A job as people see it: dates as ISO 8601, JSON values parsed. */
export interface JobRecord {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  key: string | null;
  status: JobStatus;
  fence: number;
  input: unknown;
  result: unknown;
  error: { code: ErrorCode; message: string } | null;
  crashCount: number;
  errorCount: number;
  deferralCount: number;
  /** Deliveries that met a limit, after which the job waited for a place. */
  limitedCount: number;
  interruptionCount: number;
  runAt: string;
  createdAt: string;
  startedAt: string | null;
  finishedAt: string | null;
  expiresAt: string | null;
  cancelRequestedAt: string | null;
  leaseOwner: string | null;
  /** The last `ctx.progress`, if there was one. */
  progress: { done: number; total?: number; message?: string } | null;
  /** The last 100. */
  attempts: AttemptRecord[];
  /** What is `null` here because it is larger than `get` was told to read. */
  leftOut: ('input' | 'result')[];
}

export interface GetOptions {
  tenant?: string;
  /** Leave an input or a result out that is longer than this, bytes of JSON. */
  maxBytes?: number;
}

export interface AttemptRecord {
  fence: number;
  worker: string;
  host: string;
  startedAt: string;
  finishedAt: string | null;
  /** `null` while it runs. */
  outcome: 'completed' | 'error' | 'crash' | 'interruption' | 'deferral' | 'cancelled' | 'poisoned' | null;
  error: { code: ErrorCode; message: string } | null;
}

export interface FollowOptions {
  tenant?: string;
  /** The last event already seen, as its `cursor` says; events after it are given. Default -1: from the start. */
  after?: Cursor;
  signal?: AbortSignal;
  /** Give events of these types (and `rewind`) alone; the `cursor` of what is returned moves past the others too. */
  types?: readonly string[];
  /** Of a job with `publish: 'immediate'`, give events only once they are committed. Default false. */
  committed?: boolean;
  /** Wait while Postgres is unreachable. Default true; false: a `next()` throws what the connection met. */
  throughOutages?: boolean;
}

export interface FollowBatchesOptions extends Omit<FollowOptions, 'types' | 'throughOutages'> {
  /**
   * Followers that share one read from the journal one at a time. What each has read is held until its reader takes
   * it, and a program that follows many jobs for one reader would hold that many reads.
   */
  turns?: { take(signal: AbortSignal | undefined): Promise<(() => void) & { brought?: (length: number) => void }> };
  /** Characters of live messages kept while the reader is slow; past it, events are read from the journal. Default 1 Mi. */
  maxInboxLength?: number;
  /**
   * Asked before live messages are kept for a slow reader, with the characters of all that would be: in steps of 64 Ki,
   * the first of which is not asked for, and again when they are fewer. `false`: there is no room; they are dropped, and
   * read from the journal.
   */
  keep?: (length: number) => boolean;
}

export interface ResultOptions {
  signal?: AbortSignal;
  /** How long to wait, in milliseconds; by default for ever. */
  timeoutMs?: number;
}

/** What `enqueue` returns. */
export interface JobHandle<O = unknown, E extends JobEvent = JobEvent> {
  readonly id: string;
  readonly outcome: EnqueueOutcome;
  readonly status: JobStatus;
  /**
   * The job's result, once it has one.
   * @throws JobFailedError it failed or was cancelled; OncefleetError WAIT_TIMEOUT, JOB_NOT_FOUND the
   *   transaction that enqueued it was rolled back, SHUTTING_DOWN the fleet was closed; the signal's reason
   */
  result(options?: ResultOptions): Promise<O>;
  /** The job's stream; ends after its terminal event. */
  events(options?: Omit<FollowOptions, 'tenant'>): Following<E>;
  cancel(): Promise<CancelResult>;
}

export interface CancelResult {
  status: JobStatus;
  /** `cancelled`: done now. `requested`: its worker is told. `finished`: it had already ended. */
  outcome: 'cancelled' | 'requested' | 'finished';
}

/** A job of a bulk enqueue. */
export interface BulkItem<In = unknown> extends Pick<EnqueueOptions, 'key' | 'delayMs' | 'priority'> {
  input: In;
}

export interface EnqueueManyOptions extends Pick<EnqueueOptions, 'tenant' | 'tx'> {
  /** Stops between two chunks: what was accepted by then stays so. */
  signal?: AbortSignal;
  /** After each chunk; `done` of the items were looked at. */
  onProgress?(progress: { done: number }): void;
}

/** An item that was not accepted. */
export interface BulkRefusal {
  /** Of the item in the list. */
  index: number;
  /**
   * `conflict`: its key was used with another input (KEY_MISMATCH). `invalid`: it is wrong in itself (INPUT_INVALID,
   * KEY_INVALID, JOB_NAME_UNKNOWN). `error`: Postgres did not take it (STORE_UNAVAILABLE, INTERNAL); send it again.
   */
  outcome: 'conflict' | 'invalid' | 'error';
  error: OncefleetError;
}

export type BulkOutcome<O = unknown, E extends JobEvent = JobEvent> =
  | (JobHandle<O, E> & { index: number })
  | BulkRefusal;

export interface EnqueueManyResult<O = unknown, E extends JobEvent = JobEvent> {
  /** One an item, in their order. */
  outcomes: BulkOutcome<O, E>[];
  counts: Record<EnqueueOutcome | BulkRefusal['outcome'], number>;
}

/** Which unfinished jobs to cancel; all that is given must be so. */
export interface CancelManyOptions {
  tenant?: string;
  name?: string;
  queue?: string;
  /** `pending`: those that wait, which discards a backlog. Default: running ones too. */
  status?: 'pending' | 'running';
  /** What their key begins with. */
  keyPrefix?: string;
  /** Enqueued longer ago than this, in milliseconds. Default 0: all that there are when the call begins. */
  olderThanMs?: number;
  /** At most this many. Default: any number. */
  limit?: number;
  /** Stops between two pages: what was cancelled by then stays so. */
  signal?: AbortSignal;
  /** After each page of 500. */
  onProgress?(progress: CancelManyResult): void;
}

export interface CancelManyResult {
  matched: number;
  /** Ended now. */
  cancelled: number;
  /** Running: their workers are told. */
  requested: number;
}

/** Which failed jobs to redrive, and how carefully. */
export interface RedriveManyOptions {
  tenant?: string;
  name?: string;
  /** Error code of the failure. */
  code?: string;
  /** Failed no longer ago than this, in milliseconds. */
  withinMs?: number;
  /** At most this many; 1 to 10,000, by default all of those. */
  limit?: number;
  /** Redrive this many first, wait for them, and continue only if all of them complete. Default 0. */
  canary?: number;
  /** How long to wait for the canaries, in milliseconds. Default 10 minutes. */
  canaryTimeoutMs?: number;
  signal?: AbortSignal;
  onProgress?(progress: { redriven: number; matched: number }): void;
}

export interface RedriveManyResult {
  matched: number;
  redriven: number;
  /** Canaries that did not complete, and why; where there is one, the rest was left failed. */
  failedCanaries: { id: string; code: ErrorCode; message: string }[];
}

/** A job in a search. Inputs and results, which can be large, are `get`'s. */
export type JobSummary = Omit<JobRecord, 'attempts' | 'progress' | 'input' | 'result' | 'leftOut'>;

export interface JobPage {
  jobs: JobSummary[];
  nextCursor: string | null;
}

export interface FindOptions {
  tenant?: string;
  key?: string;
  name?: string;
  status?: JobStatus;
  cursor?: string;
  /** 1 to 100; default 20. */
  limit?: number;
}

export interface EventPage {
  events: StreamEvent[];
  /** Cursor to ask with next. */
  next: Cursor;
  /** The terminal event is in this page or before it. */
  finished: boolean;
}
