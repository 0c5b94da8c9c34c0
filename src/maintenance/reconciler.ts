/**
 * Finds what the dispatcher, a dead worker or a flushed Redis left behind, and sets it going
 * again. Every worker process has one, and one of them works: who finished the last round goes
 * on, the others come when it is overdue. A transaction-level advisory lock (it passes PgBouncer)
 * keeps rounds apart; the lock of a process that died is freed with its connection, that of one
 * that is frozen or cut off by Postgres after a few seconds of silence.
 *
 * Each round reads pages of a fixed size by index, whatever the tables and queues hold, and
 * more only while it finds something to repair. All it does is guarded row by row, so that a
 * process that wakes in the middle of a round somebody else has taken over does no harm.
 */

import { sql, type Transaction } from 'kysely';
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
import { findOddStreams, findSuperfluous, forgetRounds, lockRound, noteRound, repairStream } from '../db/reconcile.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { finishJob } from '../runtime/finish-job.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { isUuid } from '../util/uuid.ts';
import { within } from '../util/with-timeout.ts';

/** Abandoned jobs dealt with at once. */
const ABANDONED_BATCH = 500;

/** Due jobs whose row is looked at in one statement, and in one round (5 µs each). */
const DUE_BATCH = 2_000;
const DUE_PER_ROUND = 50_000;

/** Waiting jobs whose place in Redis is checked at once. */
const PENDING_BATCH = 1_000;

/** Streams whose state is compared with their job's in one round. */
const STREAM_BATCH = 200;

/** Delayed BullMQ jobs whose row is looked at in one round, per queue. */
const DELAYED_BATCH = 500;

/** A delayed BullMQ job that is due sooner comes by itself, ms. */
const SOON_MS = 60_000;

/** How often queues are looked for that rows name and this process does not know, for their pauses, ms. */
const OTHERS_EVERY_MS = 60_000;

/** A job must have been due for this long before it counts as overlooked, ms. */
const GRACE_MS = 1_000;

/** How long one round goes on finding work before it lets the other parts have their turn, ms. */
const SPELL_MS = 1_000;

/** Postgres takes the lock from a process that was silent for this long, ms. */
const IDLE_LIMIT_MS = 4_000;

/** How often a round says that it is alive, ms. */
const ALIVE_MS = 1_000;

/** How long one question to Redis may take, ms: another process may reach it when this one does not. */
const REDIS_WAIT_MS = 5_000;

/** How long `close()` waits for the round in progress, ms. */
const CLOSE_WAIT_MS = 2_000;

/** Of a job's definition, what its end needs. */
type Ended = Pick<AnyJobDefinition, 'onPoison'> & { policy: { maxCrashes?: number; resultTtlMs?: number } };

export interface ReconcilerOptions {
  runtime: Runtime;
  jobs: { get(name: string): Ended | undefined };
  /** Pause between rounds, ms. */
  intervalMs: number;
}

export class Reconciler {
  readonly #options: ReconcilerOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;
  /** Where the walk over all waiting jobs stands. */
  #walk: UnfinishedCursor | undefined;
  /** The Redis over which a walk without pauses is under way. */
  #sweeping: string | undefined;
  /** Where the walk over all due jobs stands. */
  #due: UnfinishedCursor | undefined;
  #stream: string | undefined;
  readonly #delayedOffsets = new Map<string, number>();
  /** This process did the last round that it knows of. */
  #leading = false;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#schedule(0);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    // A round that waits for Redis is left alone: what it would repair, the next process repairs.
    await within(CLOSE_WAIT_MS, this.#round, () => undefined);
    const { db, workerId } = this.#options.runtime;
    if (!this.#leading) return;
    const forgotten = forgetRounds(db.kysely, workerId).catch(() => undefined);
    await within(CLOSE_WAIT_MS, forgotten, () => undefined);
  }

  /**
   * One round.
   *
   * @param options.notWithinMs not if another process did one no longer ago
   * @returns how many jobs and streams it repaired; undefined when it is another process's turn
   */
  async reconcile(options: { notWithinMs?: number } = {}): Promise<number | undefined> {
    const { db, workerId } = this.#options.runtime;
    return db.kysely.transaction().execute(async (trx) => {
      const locked = await lockRound(trx, {
        worker: workerId,
        idleLimitMs: IDLE_LIMIT_MS,
        notWithinMs: options.notWithinMs ?? 0,
      });
      if (!locked) return undefined;
      crashPoint('reconcile.locked');
      const stop = keepAlive(trx);
      let repaired = 0;
      try {
        // First what needs no Redis.
        const orphans = await this.#endAbandoned();
        repaired += orphans.ended + (await this.#repairStreams());
        // Before anything is dispatched: what a paused queue is given must wait.
        repaired += await this.#alignPauses();
        repaired += (await this.#dispatchMissing(orphans.jobs)).dispatched;
        repaired += await this.#drainOutbox();
        repaired += await this.#repairFresh();
        repaired += await this.#repairAlongTheWalk();
        repaired += await this.#repairDelayed();
      } finally {
        await stop();
      }
      await noteRound(trx, workerId);
      return repaired;
    });
  }

  /** Jobs whose owner is gone: ended where they must end; the others are to be delivered again. */
  async #endAbandoned(): Promise<{ ended: number; jobs: DispatchRow[] }> {
    const { runtime } = this.#options;
    const overdue = await findOverdueJobs(runtime.db.kysely, ABANDONED_BATCH);
    let ended = 0;
    const jobs = [];
    for (const job of [...overdue, ...(await this.#findAbandoned())]) {
      if (this.#closed) break;
      if (await endIfOver(runtime, this.#options.jobs, job)) ended++;
      else jobs.push(job);
    }
    return { ended, jobs };
  }

  /**
   * Of all jobs that are due, those whose lease has expired. Where more are due than a round looks
   * at, the next goes on behind them; and those that wait for a worker in vain hide no others.
   */
  async #findAbandoned(): Promise<AbandonedJob[]> {
    const db = this.#options.runtime.db.kysely;
    const found = [];
    let looked = 0;
    do {
      const page = await findAbandonedJobs(db, { after: this.#due, limit: DUE_BATCH });
      if (page.finished.length > 0) await dropFinished(db, page.finished);
      found.push(...page.jobs);
      looked += DUE_BATCH;
      this.#due = page.end;
    } while (this.#due !== undefined && looked < DUE_PER_ROUND && found.length < ABANDONED_BATCH && !this.#closed);
    return found;
  }

  /** What is committed and was not dispatched: by a process that died, or with Redis away. */
  async #drainOutbox(): Promise<number> {
    const until = performance.now() + SPELL_MS;
    let dispatched = 0;
    for (;;) {
      const { done, refused } = await this.#options.runtime.outbox.drain();
      dispatched += done;
      if (done === 0 || refused || this.#closed || performance.now() > until) return dispatched;
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
   * A walk over all waiting jobs, due and delayed, a page a round, so that a long queue costs no
   * more than a short one. Over a Redis that was flushed, restarted or failed over the walk
   * starts anew and does not pause; nor where most of a page is missing.
   */
  async #repairAlongTheWalk(): Promise<number> {
    const { runtime } = this.#options;
    const redis = await inTime(runtime.dispatcher.identify());
    if (redis === undefined) return 0;
    if (!redis.swept && this.#sweeping !== redis.runId) {
      this.#sweeping = redis.runId;
      this.#walk = undefined;
    }
    const until = performance.now() + SPELL_MS;
    let repaired = 0;
    for (;;) {
      const { jobs, end } = await findPendingJobs(runtime.db.kysely, { after: this.#walk, limit: PENDING_BATCH });
      const { dispatched, refused } = await this.#dispatchMissing(jobs);
      repaired += dispatched;
      if (refused > 0) {
        // A sweep that left something out is none: it starts anew with the next round.
        if (this.#sweeping !== undefined) this.#walk = undefined;
        return repaired;
      }
      this.#walk = end;
      if (this.#walk === undefined) {
        if (this.#sweeping !== undefined) await inTime(runtime.dispatcher.markSwept(this.#sweeping));
        this.#sweeping = undefined;
        return repaired;
      }
      const goesOn = this.#sweeping !== undefined || (dispatched > 0 && dispatched >= jobs.length / 2);
      if (this.#closed || !goesOn || performance.now() > until) return repaired;
    }
  }

  /**
   * Jobs that BullMQ holds for a later time although their row has ended or is gone. Made due,
   * they are delivered, and end in BullMQ as their row did.
   */
  async #repairDelayed(): Promise<number> {
    const { runtime } = this.#options;
    let repaired = 0;
    for (const queue of runtime.dispatcher.queues) {
      const { name } = queue;
      const offset = this.#delayedOffsets.get(name) ?? 0;
      const ids = await inTime(
        runtime.dispatcher.findDelayed(name, { afterMs: SOON_MS, offset, limit: DELAYED_BATCH }),
      );
      this.#delayedOffsets.set(name, ids.length < DELAYED_BATCH ? 0 : offset + ids.length);
      const superfluous = await findSuperfluous(runtime.db.kysely, ids.filter(isUuid), GRACE_MS);
      if (superfluous.length === 0) continue;
      const ours = await inTime(runtime.dispatcher.keepOwn(name, superfluous));
      repaired += await inTime(runtime.dispatcher.promote(queue, ours));
    }
    return repaired;
  }

  /** Streams that are open although their job has ended, or closed although it has not: a page a round. */
  async #repairStreams(): Promise<number> {
    const { runtime } = this.#options;
    const { ids, last } = await findOddStreams(runtime.db.kysely, this.#stream, STREAM_BATCH);
    this.#stream = last;
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
    const absent = await inTime(dispatcher.findMissing(jobs));
    if (absent.length === 0) return { dispatched: 0, refused: 0 };
    // BullMQ's answer is younger than the rows: what ran and ended in between is not missing.
    const waiting = await findWaiting(
      db.kysely,
      absent.map((job) => job.id),
    );
    const missing = absent.filter((job) => waiting.has(job.id));
    if (missing.length > 0) crashPoint('reconcile.missing');
    const done = await inTime(Promise.all(missing.map((job) => dispatcher.redispatch(job))));
    if (missing.length > 0) crashPoint('reconcile.dispatched');
    const dispatched = done.filter((taken) => taken).length;
    return { dispatched, refused: done.length - dispatched };
  }

  #schedule(ms: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#runRound();
    }, ms);
    this.#timer.unref();
  }

  async #runRound(): Promise<void> {
    const { runtime, intervalMs } = this.#options;
    let busy = false;
    try {
      const repaired = await this.reconcile({ notWithinMs: intervalMs * 1.2 + ALIVE_MS / 2 });
      const leading = repaired !== undefined;
      if (leading !== this.#leading) runtime.log.debug({ leading }, leading ? 'reconciling' : 'another reconciles');
      this.#leading = leading;
      busy = this.#sweeping !== undefined && this.#walk !== undefined && leading;
      if (repaired !== undefined && repaired > 0) runtime.log.info({ repaired }, 'reconciled');
    } catch (err) {
      this.#leading = false;
      if (isTransient(err)) runtime.log.warn({ err }, 'reconciler waits for Postgres');
      else if (err instanceof RedisSilentError) runtime.log.warn({ err }, 'reconciler waits for Redis');
      else runtime.log.error({ err }, 'reconciler failed');
    }
    // Who does not lead looks more often, so that a dead leader is missed for no longer than needed.
    this.#schedule(busy ? 0 : this.#leading ? intervalMs : intervalMs / 2);
  }
}

/** Ends a job that may not run again; its terminal event is journalled once, for every reader. */
export async function endIfOver(
  runtime: Runtime,
  jobs: ReconcilerOptions['jobs'],
  job: { id: string; name: string; mustEnd: boolean; crashCount: number },
): Promise<boolean> {
  const definition = jobs.get(job.name);
  const maxCrashes = definition?.policy.maxCrashes ?? runtime.settings.maxCrashes;
  if (!job.mustEnd && job.crashCount <= maxCrashes) return false;
  const finished = await finishJob(runtime, job.id, { definition, committed: 'reconcile.end.after' });
  if (finished === undefined) return false;
  runtime.log.info({ jobId: job.id, status: finished.status }, 'job ended by the reconciler');
  // `alerted` is not waited for: a hook that hangs must not hold up the round, nor keep the lock from others.
  return true;
}

/** Gives a stream the end that its job has had, or opens it for a job that goes on. @returns what it did */
export async function repairStreamOf(runtime: Runtime, id: string): Promise<'ended' | 'closed' | 'opened' | undefined> {
  const repaired = await repairStream(runtime.db.kysely, id);
  if (repaired === undefined) return undefined;
  if (repaired.batch !== undefined) runtime.publisher.publish([{ batch: repaired.batch, end: true }]);
  runtime.log.warn({ jobId: id, how: repaired.how }, 'stream disagreed with its job');
  return repaired.how;
}

class RedisSilentError extends Error {
  constructor() {
    super(`Redis has not answered for ${REDIS_WAIT_MS} ms`);
  }
}

/** @throws RedisSilentError */
function inTime<T>(asked: Promise<T>): Promise<T> {
  return within(REDIS_WAIT_MS, asked, () => {
    throw new RedisSilentError();
  });
}

/** Talks to Postgres on the transaction's connection, which it would take for dead. @returns stops it */
function keepAlive(trx: Transaction<Database>): () => Promise<void> {
  let asked: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    // A connection that is lost is found by the round's last statement.
    asked = sql`select 1`.execute(trx).catch(() => undefined);
  }, ALIVE_MS);
  return async () => {
    clearInterval(timer);
    await asked;
  };
}
