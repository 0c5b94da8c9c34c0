/** What a round of the reconciler repairs. Its scans continue in the next round where this one has left them. */
import { crashPoint } from '../crash-points.ts';
import {
  type AbandonedJob,
  type DispatchRow,
  dropFinished,
  findAbandonedJobs,
  findOverdueJobs,
  findPendingJobs,
  findWaiting,
  type UnfinishedCursor,
} from '../db/jobs/unfinished.ts';
import { findOddStreams, findSuperfluous, repairStream } from '../db/reconcile.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { FinishPolicy } from '../runtime/transitions.ts';
import { isUuid } from '../util/uuid.ts';
import { within } from '../util/with-timeout.ts';
import { findDelayed, findUndelivered, keepOwn } from './bullmq-jobs.ts';

/** Abandoned jobs repaired in one round. */
const ABANDONED_BATCH = 500;

/** Due jobs whose row is read in one statement, and in one round (5 µs each). */
const DUE_BATCH = 2_000;
const DUE_PER_ROUND = 50_000;

/** Waiting jobs whose place in Redis is checked at once. */
const PENDING_BATCH = 1_000;

/** Streams whose state is compared with their job's in one round. */
const STREAM_BATCH = 200;

/** Delayed BullMQ jobs whose row is read in one round, per queue. */
const DELAYED_BATCH = 500;

/** A delayed BullMQ job that is due sooner is left to BullMQ. */
const SOON_MS = 60_000;

/** How often queues are looked up that rows name and this process does not know, for their pauses. */
const OTHERS_EVERY_MS = 60_000;

/** A job must have been due for this long before it counts as overlooked. */
const GRACE_MS = 1_000;

/** How long one part of a round may continue while it finds work, before the others have their turn. */
const SPELL_MS = 1_000;

/** How long one question to Redis may take: another process may reach it when this one does not. */
const REDIS_WAIT_MS = 5_000;

export interface RepairsOptions {
  runtime: Runtime;
  jobs: { get(name: string): FinishPolicy | undefined };
  /** Pause between rounds, in milliseconds. */
  intervalMs: number;
}

export class Repairs {
  readonly #options: RepairsOptions;
  readonly #closing: AbortSignal;
  /** Where the scan of all waiting jobs continues. */
  #pendingCursor: UnfinishedCursor | undefined;
  /** The Redis for which a scan without pauses is under way. */
  #fullScanOf: string | undefined;
  /** Where the scan of all due jobs continues. */
  #dueCursor: UnfinishedCursor | undefined;
  /** The last stream that was compared with its job. */
  #streamCursor: string | undefined;
  readonly #delayedOffsets = new Map<string, number>();

  /** @param closing a round that is under way stops early */
  constructor(options: RepairsOptions, closing: AbortSignal) {
    this.#options = options;
    this.#closing = closing;
  }

  /** A full scan is under way; the next round should follow at once. */
  get isScanning(): boolean {
    return this.#fullScanOf !== undefined && this.#pendingCursor !== undefined;
  }

  /** @returns how many jobs and streams this round has repaired */
  async run(): Promise<number> {
    // First what needs no Redis.
    const orphans = await this.#endAbandoned();
    let repaired = orphans.ended + (await this.#repairStreams());
    // Before anything is dispatched: what a paused queue is given must wait.
    repaired += await this.#alignPauses();
    repaired += (await this.#dispatchMissing(orphans.jobs)).dispatched;
    repaired += await this.#drainOutbox();
    repaired += await this.#repairFresh();
    repaired += await this.#scanPending();
    repaired += await this.#repairDelayed();
    repaired += await this.#options.runtime.limits.repair();
    return repaired;
  }

  /** Jobs whose owner is gone: finished where they must end; the others are to be delivered again. */
  async #endAbandoned(): Promise<{ ended: number; jobs: DispatchRow[] }> {
    const { runtime } = this.#options;
    const overdue = await findOverdueJobs(runtime.db.kysely, ABANDONED_BATCH);
    let ended = 0;
    const jobs = [];
    for (const job of [...overdue, ...(await this.#findAbandoned())]) {
      if (this.#closing.aborted) break;
      if (await finishIfOver(runtime, this.#options.jobs, job, 'reconciler')) ended++;
      else jobs.push(job);
    }
    return { ended, jobs };
  }

  /**
   * Of all jobs that are due, those whose lease has expired. Where more are due than one round reads,
   * the next round continues behind them, so jobs that no worker takes hide no others.
   */
  async #findAbandoned(): Promise<AbandonedJob[]> {
    const db = this.#options.runtime.db.kysely;
    const found = [];
    let looked = 0;
    do {
      const page = await findAbandonedJobs(db, { after: this.#dueCursor, limit: DUE_BATCH });
      if (page.finished.length > 0) await dropFinished(db, page.finished);
      found.push(...page.jobs);
      looked += DUE_BATCH;
      this.#dueCursor = page.end;
    } while (
      this.#dueCursor !== undefined &&
      looked < DUE_PER_ROUND &&
      found.length < ABANDONED_BATCH &&
      !this.#closing.aborted
    );
    return found;
  }

  /** What is committed and was not dispatched: by a process that died, or while Redis was unreachable. */
  async #drainOutbox(): Promise<number> {
    const until = performance.now() + SPELL_MS;
    let dispatched = 0;
    for (;;) {
      const { done, refused } = await this.#options.runtime.outbox.drain();
      dispatched += done;
      if (done === 0 || refused || this.#closing.aborted || performance.now() > until) return dispatched;
    }
  }

  /** Jobs that became due a moment ago: one that Redis lost starts at most a round late, however long the queue. */
  async #repairFresh(): Promise<number> {
    const { runtime, intervalMs } = this.#options;
    const { jobs } = await findPendingJobs(runtime.db.kysely, {
      graceMs: GRACE_MS,
      withinMs: GRACE_MS + 3 * intervalMs,
      limit: PENDING_BATCH,
    });
    return (await this.#dispatchMissing(jobs)).dispatched;
  }

  /**
   * A scan of all waiting jobs, due and delayed, a page a round, so that a long queue costs no more
   * than a short one. For a Redis that was flushed, restarted or failed over the scan starts anew
   * and does not pause; nor does it where most of a page is missing.
   */
  async #scanPending(): Promise<number> {
    const { runtime } = this.#options;
    const redis = await inTime(runtime.dispatcher.identify());
    if (redis === undefined) return 0;
    if (!redis.swept && this.#fullScanOf !== redis.runId) {
      this.#fullScanOf = redis.runId;
      this.#pendingCursor = undefined;
    }
    const until = performance.now() + SPELL_MS;
    let repaired = 0;
    for (;;) {
      const { jobs, end } = await findPendingJobs(runtime.db.kysely, {
        after: this.#pendingCursor,
        limit: PENDING_BATCH,
      });
      const { dispatched, refused } = await this.#dispatchMissing(jobs);
      repaired += dispatched;
      if (refused > 0) {
        // A full scan that left something out is none: it starts anew with the next round.
        if (this.#fullScanOf !== undefined) this.#pendingCursor = undefined;
        return repaired;
      }
      this.#pendingCursor = end;
      if (this.#pendingCursor === undefined) {
        if (this.#fullScanOf !== undefined) await inTime(runtime.dispatcher.markSwept(this.#fullScanOf));
        this.#fullScanOf = undefined;
        return repaired;
      }
      const continues = this.#fullScanOf !== undefined || (dispatched > 0 && dispatched >= jobs.length / 2);
      if (this.#closing.aborted || !continues || performance.now() > until) return repaired;
    }
  }

  /**
   * Jobs that BullMQ holds for a later time although their row has ended or is gone. Promoted,
   * they are delivered, and end in BullMQ as their row did.
   */
  async #repairDelayed(): Promise<number> {
    const { runtime } = this.#options;
    let repaired = 0;
    for (const queue of runtime.dispatcher.queues) {
      const { name } = queue;
      const offset = this.#delayedOffsets.get(name) ?? 0;
      const ids = await inTime(findDelayed(runtime.redis, queue, { afterMs: SOON_MS, offset, limit: DELAYED_BATCH }));
      this.#delayedOffsets.set(name, ids.length < DELAYED_BATCH ? 0 : offset + ids.length);
      const superfluous = await findSuperfluous(runtime.db.kysely, ids.filter(isUuid), GRACE_MS);
      if (superfluous.length === 0) continue;
      const ours = await inTime(keepOwn(runtime.redis, queue, superfluous));
      repaired += await inTime(runtime.dispatcher.promote(queue, ours));
    }
    return repaired;
  }

  /** Streams that are open although their job has ended, or closed although it has not: a page a round. */
  async #repairStreams(): Promise<number> {
    const { runtime } = this.#options;
    const { ids, last } = await findOddStreams(runtime.db.kysely, this.#streamCursor, STREAM_BATCH);
    this.#streamCursor = last;
    let repaired = 0;
    for (const id of ids) if ((await repairStreamOf(runtime, id)) !== undefined) repaired++;
    return repaired;
  }

  /** Queues that Redis has lost the pause of, or that another client has paused or resumed. */
  async #alignPauses(): Promise<number> {
    const { dispatcher, otherQueues, pauses, redis } = this.#options.runtime;
    if (redis.status !== 'ready') return 0;
    const known = dispatcher.queues;
    const others = await inTime(
      otherQueues.find(
        known.map(({ name }) => name),
        OTHERS_EVERY_MS,
      ),
    );
    return (await inTime(pauses.align([...known, ...others]))).length;
  }

  async #dispatchMissing(jobs: readonly DispatchRow[]): Promise<{ dispatched: number; refused: number }> {
    const { dispatcher, db } = this.#options.runtime;
    const { missing: absent, late } = await inTime(findUndelivered(this.#options.runtime, jobs));
    const promoted = await this.#promote(late);
    if (absent.length === 0) return { dispatched: promoted, refused: 0 };
    // BullMQ's answer is younger than the rows: what ran and ended in between is not missing.
    const waiting = await findWaiting(
      db.kysely,
      absent.map((job) => job.id),
    );
    const missing = absent.filter((job) => waiting.has(job.id));
    if (missing.length > 0) crashPoint('reconcile.missing');
    const done = await inTime(Promise.all(missing.map((job) => dispatcher.redispatch(job, 'reconciler'))));
    if (missing.length > 0) crashPoint('reconcile.dispatched');
    const dispatched = done.filter((taken) => taken).length;
    return { dispatched: promoted + dispatched, refused: done.length - dispatched };
  }

  /** Has BullMQ deliver jobs that are due. One that is not, after all, is put off again by its claim. */
  async #promote(late: readonly DispatchRow[]): Promise<number> {
    const { dispatcher, log } = this.#options.runtime;
    let promoted = 0;
    for (const [queue, rows] of Map.groupBy(late, (row) => dispatcher.queueOf(row))) {
      promoted += await inTime(
        dispatcher.promote(
          queue,
          rows.map((row) => row.id),
        ),
      );
    }
    if (promoted > 0)
      log.info({ jobs: promoted }, 'jobs were due and BullMQ kept them for later: the clocks of some hosts are wrong');
    return promoted;
  }
}

/** Finishes a job that may not run again; its terminal event is journalled once, for every reader. */
export async function finishIfOver(
  runtime: Runtime,
  jobs: RepairsOptions['jobs'],
  job: { id: string; name: string; mustEnd: boolean; crashCount: number },
  by: 'reconciler' | 'doctor',
): Promise<boolean> {
  const definition = jobs.get(job.name);
  const maxCrashes = definition?.policy.maxCrashes ?? runtime.settings.maxCrashes;
  if (!job.mustEnd && job.crashCount <= maxCrashes) return false;
  const finished = await runtime.transitions.finish(job.id, { by, definition, committed: 'reconcile.end.after' });
  if (finished === undefined) return false;
  runtime.log.info({ jobId: job.id, status: finished.status }, 'job ended by the reconciler');
  // `alerted` is not waited for: a hook that hangs must not hold up the round, nor keep the lock from others.
  return true;
}

/** Gives a stream the end that its job has had, or opens it for a job that has not ended. @returns what it did */
export async function repairStreamOf(runtime: Runtime, id: string): Promise<'ended' | 'closed' | 'opened' | undefined> {
  const repaired = await repairStream(runtime.db.kysely, id);
  if (repaired === undefined) return undefined;
  if (repaired.batch !== undefined) runtime.publisher.publish([{ batch: repaired.batch, end: true }]);
  runtime.log.warn({ jobId: id, how: repaired.how }, 'stream disagreed with its job');
  return repaired.how;
}

/** A question to Redis had no answer in time. */
export class RedisTimeoutError extends Error {
  constructor() {
    super(`Redis has not answered for ${REDIS_WAIT_MS} ms`);
  }
}

/** @throws RedisTimeoutError */
function inTime<T>(asked: Promise<T>): Promise<T> {
  return within(REDIS_WAIT_MS, asked, () => {
    throw new RedisTimeoutError();
  });
}
