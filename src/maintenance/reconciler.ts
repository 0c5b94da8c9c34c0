/**
 * Finds what the dispatcher, a dead worker or a flushed Redis left behind, and has it run again.
 * Every worker process has one, and one of them is the leader: the process that finished the last
 * round does the next; the others take over when it is overdue. A transaction-level advisory lock
 * (it passes PgBouncer) keeps rounds apart. The lock of a process that died is freed with its
 * connection; that of one that is frozen or cut off is taken by Postgres, which ends a transaction
 * after a few seconds without a statement.
 *
 * Each round reads pages of a fixed size by index, whatever the tables and queues hold, and
 * more only while it finds something to repair. All it does is guarded row by row, so that a
 * process that wakes in the middle of a round somebody else has taken over does no harm.
 */

import { sql, type Transaction } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import { forgetRounds, lockRound, noteRound } from '../db/reconcile.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { within } from '../util/with-timeout.ts';
import { RedisTimeoutError, Repairs, type RepairsOptions } from './repairs.ts';

/** Postgres takes the lock from a process that has sent no statement for this long. */
const IDLE_LIMIT_MS = 4_000;

/** How often a round shows Postgres that it is alive. */
const ALIVE_MS = 1_000;

/** How long `close()` waits for the round in progress. */
const CLOSE_WAIT_MS = 2_000;

export class Reconciler {
  readonly #options: RepairsOptions;
  readonly #closing = new AbortController();
  readonly #repairs: Repairs;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  /** This process did the last round that it knows of. */
  #leading = false;

  constructor(options: RepairsOptions) {
    this.#options = options;
    this.#repairs = new Repairs(options, this.#closing.signal);
  }

  start(): void {
    this.#schedule(0);
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
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
      let repaired: number;
      try {
        repaired = await this.#repairs.run();
      } finally {
        await stop();
      }
      await noteRound(trx, workerId);
      return repaired;
    });
  }

  #schedule(ms: number): void {
    if (this.#closing.signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#runRound();
    }, ms);
    this.#timer.unref();
  }

  async #runRound(): Promise<void> {
    const { runtime, intervalMs } = this.#options;
    let busy = false;
    const startedAt = performance.now();
    const tell = (repaired: number, failed: boolean) =>
      runtime.probes.listener?.reconciled({ ms: performance.now() - startedAt, repaired, failed });
    try {
      const repaired = await this.reconcile({ notWithinMs: intervalMs * 1.2 + ALIVE_MS / 2 });
      const leading = repaired !== undefined;
      if (leading !== this.#leading) runtime.log.debug({ leading }, leading ? 'reconciling' : 'another reconciles');
      this.#leading = leading;
      busy = leading && this.#repairs.isScanning;
      if (repaired !== undefined) tell(repaired, false);
      if (repaired !== undefined && repaired > 0) runtime.log.info({ repaired }, 'reconciled');
    } catch (err) {
      this.#leading = false;
      tell(0, true);
      if (isTransient(err)) runtime.log.warn({ err }, 'reconciler waits for Postgres');
      else if (err instanceof RedisTimeoutError) runtime.log.warn({ err }, 'reconciler waits for Redis');
      else runtime.log.error({ err }, 'reconciler failed');
    }
    // A process that does not lead asks more often, so that a dead leader is replaced as early as needed.
    this.#schedule(busy ? 0 : this.#leading ? intervalMs : intervalMs / 2);
  }
}

/** Sends statements on the transaction's connection, which Postgres would take for dead without. @returns stops it */
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
