/**
 * Dispatches what is committed and not yet in BullMQ: jobs enqueued in a caller's own
 * transaction, and jobs that Redis did not take at once.
 *
 * A commit is found by asking Postgres what became of the transaction, soon and then ever less
 * often. The rejected alternative is LISTEN/NOTIFY: it costs a connection per process, does not
 * pass PgBouncer in transaction mode, forbids PREPARE TRANSACTION to the caller, and each
 * commit that notifies takes one lock for all databases of the server. What this process does
 * not get to, because it may die, the reconciler finds in the table.
 *
 * @see https://www.postgresql.org/docs/current/functions-info.html (pg_xact_status)
 */
import type { Kysely } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { TransitionMaker } from '../db/jobs/states.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { deleteOutbox, findTransactionStatuses, insertOutbox, lockOutbox } from '../db/outbox.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { Logger } from '../log.ts';
import { Batcher } from '../util/batcher.ts';
import type { Dispatcher } from './dispatcher.ts';

/** How soon after an enqueue its transaction is first checked: most are over by then. */
const FIRST_CHECK_MS = 4;

/** Each further check waits for this share of the transaction's age, which bounds the extra latency. */
const CHECK_SHARE = 0.2;
const LONGEST_PAUSE_MS = 1_000;

/** A transaction older than this is left to the reconciler. */
const WATCH_LIMIT_MS = 120_000;

/** Watched jobs in all; more are left to the reconciler. */
const MAX_WATCHED = 20_000;

/** Outbox rows dispatched in one transaction. */
const BATCH = 500;

interface Watched {
  since: number;
  jobs: Map<string, DispatchRow>;
}

interface OutboxOptions {
  db: Kysely<Database>;
  dispatcher: Dispatcher;
  /** The transactions of these jobs have committed. */
  committed(rows: readonly DispatchRow[]): Promise<void>;
  log: Logger;
}

export class Outbox {
  readonly #db: Kysely<Database>;
  readonly #dispatcher: Dispatcher;
  readonly #committed: OutboxOptions['committed'];
  readonly #log: Logger;
  readonly #notes: Batcher<string, void>;
  /** By transaction id. */
  readonly #watched = new Map<string, Watched>();
  #watchedJobs = 0;
  #timer: NodeJS.Timeout | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #checking: Promise<void> | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: OutboxOptions) {
    this.#db = options.db;
    this.#dispatcher = options.dispatcher;
    this.#committed = options.committed;
    this.#log = options.log;
    this.#notes = new Batcher({
      run: async (ids) => {
        await insertOutbox(options.db, ids);
        return ids.map(() => undefined);
      },
      maxBatch: 1_000,
      maxInFlight: 1,
    });
  }

  /** Gives a committed job to BullMQ, or notes it for the reconciler. Never throws: the job is accepted. */
  async dispatch(row: DispatchRow, by: TransitionMaker): Promise<void> {
    if (await this.#dispatcher.dispatch(row, by)) return;
    await this.#notes
      .call(row.id)
      .catch((err: unknown) =>
        this.#log.warn({ err, jobId: row.id }, 'not noted for dispatch; the reconciler comes upon it'),
      );
  }

  /** Dispatches a job as soon as the transaction that inserted it has committed. */
  watch(xid: string, row: DispatchRow): void {
    if (this.#closed !== undefined || this.#watchedJobs >= MAX_WATCHED) return;
    const now = performance.now();
    let watched = this.#watched.get(xid);
    if (watched === undefined) {
      watched = { since: now, jobs: new Map() };
      this.#watched.set(xid, watched);
    }
    watched.jobs.set(row.id, row);
    this.#watchedJobs++;
    this.#scheduleCheck(now + FIRST_CHECK_MS);
  }

  /**
   * Dispatches what the outbox holds, oldest first.
   *
   * @param own rows that this process knows more of than Postgres does (an input that BullMQ carries)
   * @returns how many were taken out, and whether Redis took all that it was given
   */
  async drain(
    options: { limit?: number; own?: ReadonlyMap<string, DispatchRow> } = {},
  ): Promise<{ done: number; refused: boolean }> {
    const { own } = options;
    return this.#db.transaction().execute(async (trx) => {
      const rows = await lockOutbox(trx, {
        limit: options.limit ?? BATCH,
        jobIds: own === undefined ? undefined : [...own.keys()],
      });
      if (rows.length === 0) return { done: 0, refused: false };
      const taken = await Promise.all(
        rows.map(async ({ pending, ...row }) => {
          const input = own?.get(row.id)?.input;
          return !pending || (await this.#dispatcher.dispatch(input === undefined ? row : { ...row, input }, 'outbox'));
        }),
      );
      crashPoint('outbox.dispatched');
      const done = rows.filter((_, i) => taken[i]).map((row) => row.id);
      if (done.length > 0) await deleteOutbox(trx, done);
      return { done: done.length, refused: done.length < rows.length };
    });
  }

  /** Checks once more, so that what was committed just before is dispatched. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      clearTimeout(this.#timer);
      await this.#checking;
      if (this.#watched.size > 0) await this.#check();
      this.#watched.clear();
    })();
    return this.#closed;
  }

  #scheduleCheck(at: number): void {
    if (this.#closed !== undefined || at >= this.#timerAt) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(
      () => {
        this.#timerAt = Number.POSITIVE_INFINITY;
        // One check at a time; jobs added meanwhile are picked up by the next.
        if (this.#checking !== undefined) return;
        this.#checking = this.#check().finally(() => {
          this.#checking = undefined;
          this.#scheduleNextCheck();
        });
      },
      Math.max(0, at - performance.now()),
    );
    this.#timer.unref();
  }

  #scheduleNextCheck(): void {
    const now = performance.now();
    let next = Number.POSITIVE_INFINITY;
    for (const { since } of this.#watched.values()) {
      const pause = Math.min(LONGEST_PAUSE_MS, Math.max(FIRST_CHECK_MS, (now - since) * CHECK_SHARE));
      next = Math.min(next, now + pause);
    }
    if (next !== Number.POSITIVE_INFINITY) this.#scheduleCheck(next);
  }

  async #check(): Promise<void> {
    try {
      const statuses = await findTransactionStatuses(this.#db, [...this.#watched.keys()]);
      const committed = new Map<string, DispatchRow>();
      for (const [xid, status] of statuses) {
        const watched = this.#watched.get(xid);
        if (watched === undefined) continue;
        const tooOld = performance.now() - watched.since > WATCH_LIMIT_MS;
        if (status === 'in progress' && !tooOld) continue;
        // What a rollback to a savepoint undid has no row in the outbox, and so is not dispatched.
        if (status === 'committed') for (const [id, row] of watched.jobs) committed.set(id, row);
        this.#watched.delete(xid);
        this.#watchedJobs -= watched.jobs.size;
      }
      if (committed.size === 0) return;
      crashPoint('outbox.committed');
      await this.#committed([...committed.values()]);
      await this.#drainOwn([...committed]);
    } catch (err) {
      if (isTransient(err)) return;
      this.#log.error({ err }, 'committed jobs not dispatched; the reconciler will do it');
      this.#watched.clear();
      this.#watchedJobs = 0;
    }
  }

  /** A transaction a batch: rows are locked no longer than Redis takes to accept a batch. */
  async #drainOwn(committed: readonly [string, DispatchRow][]): Promise<void> {
    for (let at = 0; at < committed.length; at += BATCH) {
      const { refused } = await this.drain({ own: new Map(committed.slice(at, at + BATCH)) });
      // The rest is in the table, for the reconciler.
      if (refused) return;
    }
  }
}
