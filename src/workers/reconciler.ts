/**
 * Finds what the dispatcher, a dead worker or a flushed Redis left behind, and sets it going
 * again. Every worker process has one; a transaction-level advisory lock lets one of them
 * work at a time, and its death frees the lock with its connection.
 */
import { sql } from 'kysely';
import { endAbandoned, findStrayJobs } from '../db/jobs.ts';
import { isTransient } from '../db/transient.ts';
import { ending } from '../idempotency/abandon.ts';
import type { AnyJobDefinition } from '../idempotency/define-job.ts';
import { alertPoison } from '../idempotency/guard.ts';
import type { Runtime } from '../idempotency/runtime.ts';

/** Any number that nothing else locks; "once" in ASCII. */
const LOCK_ID = 0x6f6e6365;

/** Jobs looked at in one round. */
const BATCH = 500;

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

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#schedule(0);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#round;
  }

  /** One round. @returns how many jobs it set going or ended; 0 also when another process is at it */
  async reconcile(): Promise<number> {
    const { runtime, intervalMs } = this.#options;
    const db = runtime.db.kysely;
    return db.transaction().execute(async (trx) => {
      const lock = await sql<{ locked: boolean }>`select pg_try_advisory_xact_lock(${LOCK_ID}) as locked`.execute(trx);
      if (lock.rows[0]?.locked !== true) return 0;
      const strays = await findStrayJobs(db, { graceMs: Math.max(intervalMs, 1_000), limit: BATCH });
      let mended = 0;
      for (const stray of strays) {
        if (this.#closed) break;
        if (await this.#end(stray)) {
          mended++;
        } else if (await runtime.dispatcher.redispatch(stray)) {
          mended++;
        }
      }
      return mended;
    });
  }

  /** Ends a job that may not run again; its terminal event is journalled once, for every reader. */
  async #end(stray: {
    id: string;
    name: string;
    cancelRequested: boolean;
    deadlinePassed: boolean;
    crashCount: number;
    status: string;
  }): Promise<boolean> {
    const { runtime, jobs } = this.#options;
    const definition = jobs.get(stray.name);
    const maxCrashes = definition?.policy.maxCrashes ?? runtime.settings.maxCrashes;
    const crashes = stray.crashCount + (stray.status === 'running' ? 1 : 0);
    if (!stray.cancelRequested && !stray.deadlinePassed && crashes <= maxCrashes) return false;
    const resultTtlMs = definition?.policy.resultTtlMs ?? runtime.settings.resultTtlMs;
    const ended = await endAbandoned(runtime.db.kysely, stray.id, { resultTtlMs, delivery: undefined }, (row) =>
      ending(stray.id, row, maxCrashes),
    );
    if (ended === undefined) return false;
    runtime.publisher.publish([{ run: ended.run, end: true }]);
    runtime.log.info({ jobId: stray.id, status: ended.status }, 'job ended by the reconciler');
    if (ended.poisoned)
      await alertPoison(runtime.log, definition, {
        jobId: stray.id,
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
