/**
 * Finds what the dispatcher, a dead worker or a flushed Redis left behind, and sets it going
 * again. Every worker process has one; a transaction-level advisory lock lets one of them
 * work at a time, and its death frees the lock with its connection.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import { endAbandoned, findAbandonedJobs, findDueJobs, findWaiting, type PendingCursor } from '../db/jobs.ts';
import { isTransient } from '../db/transient.ts';
import { ending } from '../idempotency/abandon.ts';
import type { AnyJobDefinition } from '../idempotency/define-job.ts';
import { alertPoison } from '../idempotency/guard.ts';
import type { Runtime } from '../idempotency/runtime.ts';

/** Any number that nothing else locks; "once" in ASCII. */
const LOCK_ID = 0x6f6e6365;

/** Abandoned jobs dealt with in one round. */
const ABANDONED_BATCH = 500;

/** Waiting jobs whose place in Redis is checked at once. */
const DUE_BATCH = 1_000;

/** A job must have been due for this long before it counts as overlooked, ms. */
const GRACE_MS = 1_000;

/** Postgres frees the lock of a process that is silent for so long: killed by a network, not by its end, ms. */
const SILENT_HOLDER_MS = 10_000;

/** How long `close()` waits for the round in progress, ms. */
const CLOSE_WAIT_MS = 2_000;

export interface ReconcilerOptions {
  runtime: Runtime;
  jobs: ReadonlyMap<string, AnyJobDefinition>;
  /** Pause between rounds, ms. */
  intervalMs: number;
}

export class Reconciler {
  readonly #options: ReconcilerOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;
  /** Where the walk over all waiting jobs stands. */
  #walk: PendingCursor | undefined;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#schedule(0);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    // A round that waits for Redis is left alone: what it would mend, the next process mends.
    await Promise.race([this.#round, delay(CLOSE_WAIT_MS)]);
  }

  /** One round. @returns how many jobs it set going or ended; 0 also when another process is at it */
  async reconcile(): Promise<number> {
    const { runtime } = this.#options;
    return runtime.db.kysely.transaction().execute(async (trx) => {
      const lock = await sql<{ locked: boolean }>`
        select pg_try_advisory_xact_lock(${LOCK_ID}) as locked,
          set_config('idle_in_transaction_session_timeout', ${String(SILENT_HOLDER_MS)}, true)`.execute(trx);
      if (lock.rows[0]?.locked !== true) return 0;
      const stillHere = () => sql`select 1`.execute(trx);
      const abandoned = await this.#mendAbandoned();
      await stillHere();
      const fresh = await this.#mendFresh();
      await stillHere();
      return abandoned + fresh + (await this.#mendAlongTheWalk(stillHere));
    });
  }

  /** Jobs whose owner is gone: ended where they must end, else sure to be delivered again. */
  async #mendAbandoned(): Promise<number> {
    const { runtime } = this.#options;
    const abandoned = await findAbandonedJobs(runtime.db.kysely, ABANDONED_BATCH);
    let mended = 0;
    const orphans = [];
    for (const job of abandoned) {
      if (this.#closed) return mended;
      if (await this.#end(job)) mended++;
      else orphans.push(job);
    }
    return mended + (await this.#dispatchMissing(orphans)).length;
  }

  /** Jobs that became due a moment ago: what an enqueue could not dispatch is found at once, however long the queue. */
  async #mendFresh(): Promise<number> {
    const { runtime, intervalMs } = this.#options;
    const { jobs } = await findDueJobs(runtime.db.kysely, {
      graceMs: GRACE_MS,
      withinMs: GRACE_MS + 3 * intervalMs,
      limit: DUE_BATCH,
    });
    return (await this.#dispatchMissing(jobs)).length;
  }

  /**
   * A walk over all waiting jobs, a batch a round, so that a long queue costs no more than a
   * short one. Where most of a batch is missing Redis was flushed, and the walk does not pause.
   */
  async #mendAlongTheWalk(stillHere: () => Promise<unknown>): Promise<number> {
    const { runtime } = this.#options;
    let mended = 0;
    for (;;) {
      const { jobs, end } = await findDueJobs(runtime.db.kysely, {
        graceMs: GRACE_MS,
        after: this.#walk,
        limit: DUE_BATCH,
      });
      const missing = await this.#dispatchMissing(jobs);
      mended += missing.length;
      this.#walk = jobs.length < DUE_BATCH ? undefined : end;
      if (this.#closed || this.#walk === undefined || missing.length < jobs.length / 2) return mended;
      await stillHere();
    }
  }

  async #dispatchMissing(jobs: Parameters<Runtime['dispatcher']['findMissing']>[0]): Promise<unknown[]> {
    const { dispatcher } = this.#options.runtime;
    const absent = await dispatcher.findMissing(jobs);
    if (absent.length === 0) return [];
    // BullMQ's answer is younger than the rows: what ran and ended in between is not missing.
    const waiting = await findWaiting(
      this.#options.runtime.db.kysely,
      absent.map((job) => job.id),
    );
    const missing = absent.filter((job) => waiting.has(job.id));
    const done = await Promise.all(missing.map((job) => dispatcher.redispatch(job)));
    return done.filter((dispatched) => dispatched);
  }

  /** Ends a job that may not run again; its terminal event is journalled once, for every reader. */
  async #end(job: { id: string; name: string; mustEnd: boolean; crashCount: number }): Promise<boolean> {
    const { runtime, jobs } = this.#options;
    const definition = jobs.get(job.name);
    const maxCrashes = definition?.policy.maxCrashes ?? runtime.settings.maxCrashes;
    if (!job.mustEnd && job.crashCount <= maxCrashes) return false;
    const resultTtlMs = definition?.policy.resultTtlMs ?? runtime.settings.resultTtlMs;
    const ended = await endAbandoned(runtime.db.kysely, job.id, { resultTtlMs, delivery: undefined }, (row) =>
      ending(job.id, row, maxCrashes),
    );
    if (ended === undefined) return false;
    runtime.publisher.publish([{ run: ended.run, end: true }]);
    runtime.log.info({ jobId: job.id, status: ended.status }, 'job ended by the reconciler');
    if (ended.poisoned)
      await alertPoison(runtime.log, definition, {
        jobId: job.id,
        tenant: ended.tenant,
        name: ended.name,
        crashes: ended.crashCount,
      });
    return true;
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
    try {
      const mended = await this.reconcile();
      if (mended > 0) runtime.log.info({ mended }, 'reconciled');
    } catch (err) {
      if (isTransient(err)) runtime.log.warn({ err }, 'reconciler waits for Postgres');
      else runtime.log.error({ err }, 'reconciler failed');
    }
    this.#schedule(intervalMs);
  }
}
