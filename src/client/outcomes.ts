/**
 * Waiting for jobs to end. All waiters of a process for one job share one subscription, and
 * one statement at intervals looks at every job waited for: no worker slot, no polling storm.
 */
import type { Kysely } from 'kysely';
import { findOutcomes, type Outcome } from '../db/jobs/find.ts';
import { findExisting, findTransactionStatuses } from '../db/outbox.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { OncefleetError } from '../errors.ts';
import type { ChannelHub } from '../journal/channel.ts';
import type { Logger } from '../log.ts';

interface Waited {
  outcome: PromiseWithResolvers<Outcome>;
  waiters: number;
  /** The job is waited for although it may be a part of this transaction, which may not have ended. */
  xid: string | undefined;
  unsubscribe(): void;
}

/** How often jobs waited for are looked at, should a live message be missed. */
const CHECK_MS = 2_000;

/** Terminal messages of the same moment share a look. */
const HINT_LINGER_MS = 1;

export class Outcomes {
  readonly #db: Kysely<Database>;
  readonly #hub: ChannelHub;
  readonly #log: Logger;
  readonly #waited = new Map<string, Waited>();
  readonly #hinted = new Set<string>();
  #hintTimer: NodeJS.Timeout | undefined;
  #checkTimer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: { db: Kysely<Database>; hub: ChannelHub; log: Logger }) {
    this.#db = options.db;
    this.#hub = options.hub;
    this.#log = options.log;
  }

  /**
   * Resolves with what a job ended in.
   *
   * @param xid of a caller's transaction that the job may be a part of
   * @throws the signal's reason; OncefleetError JOB_NOT_FOUND that transaction was rolled back, SHUTTING_DOWN
   */
  async wait(jobId: string, signal: AbortSignal | undefined, xid?: string): Promise<Outcome> {
    signal?.throwIfAborted();
    if (this.#closed) throw closedError(jobId);
    const waited = this.#waited.get(jobId) ?? this.#start(jobId);
    waited.waiters++;
    waited.xid ??= xid;
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([waited.outcome.promise, aborted.promise]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      waited.waiters--;
      if (waited.waiters === 0) this.#stop(jobId, waited);
    }
  }

  close(): void {
    clearTimeout(this.#hintTimer);
    this.#closed = true;
    for (const [jobId, waited] of this.#waited) {
      waited.outcome.reject(closedError(jobId));
      this.#stop(jobId, waited);
    }
  }

  #start(jobId: string): Waited {
    const look = () => this.#hint(jobId);
    // Subscribed or back after a cut: the end may have passed unheard, so look.
    const unsubscribe = this.#hub.subscribe(jobId, { onBatch: (message) => message.end && look(), onGap: look });
    const waited: Waited = { outcome: Promise.withResolvers(), waiters: 0, xid: undefined, unsubscribe };
    this.#waited.set(jobId, waited);
    this.#checkTimer ??= setInterval(() => void this.#look([...this.#waited.keys()]), CHECK_MS);
    look();
    return waited;
  }

  #stop(jobId: string, waited: Waited): void {
    if (this.#waited.get(jobId) !== waited) return;
    this.#waited.delete(jobId);
    waited.unsubscribe();
    if (this.#waited.size > 0) return;
    clearInterval(this.#checkTimer);
    this.#checkTimer = undefined;
  }

  #hint(jobId: string): void {
    this.#hinted.add(jobId);
    this.#hintTimer ??= setTimeout(() => {
      this.#hintTimer = undefined;
      const ids = [...this.#hinted];
      this.#hinted.clear();
      void this.#look(ids);
    }, HINT_LINGER_MS);
  }

  async #look(some: readonly string[]): Promise<void> {
    const ids = some.filter((id) => this.#waited.has(id));
    if (ids.length === 0) return;
    try {
      for (const outcome of await findOutcomes(this.#db, ids)) this.#waited.get(outcome.id)?.outcome.resolve(outcome);
      await this.#lookForRolledBack(ids);
    } catch (err) {
      if (this.#closed) return;
      if (isTransient(err)) this.#log.debug({ err }, 'outcomes not looked at; the next check will');
      else this.#log.error({ err }, 'outcomes cannot be looked at');
    }
  }

  /** A job whose transaction is over and that is not there never will be: a rollback, also to a savepoint. */
  async #lookForRolledBack(ids: readonly string[]): Promise<void> {
    const open = new Map<string, { waited: Waited; xid: string }>();
    for (const id of ids) {
      const waited = this.#waited.get(id);
      if (waited?.xid !== undefined) open.set(id, { waited, xid: waited.xid });
    }
    if (open.size === 0) return;
    // Before the rows: those of a transaction that was over then are visible to the next statement.
    const statuses = await findTransactionStatuses(this.#db, [...new Set([...open.values()].map(({ xid }) => xid))]);
    const over = [...open].filter(([, { xid }]) => statuses.get(xid) !== 'in progress');
    if (over.length === 0) return;
    const there = await findExisting(
      this.#db,
      over.map(([id]) => id),
    );
    for (const [id, { waited }] of over) {
      waited.xid = undefined;
      if (!there.has(id)) waited.outcome.reject(neverWas(id));
    }
  }
}

function neverWas(jobId: string): OncefleetError {
  return new OncefleetError(
    'JOB_NOT_FOUND',
    `Job ${jobId} never was: the transaction it was enqueued in was rolled back`,
    {
      details: { jobId },
    },
  );
}

function closedError(jobId: string): OncefleetError {
  return new OncefleetError('SHUTTING_DOWN', `This fleet is closed: wait for job ${jobId} through another`, {
    details: { jobId },
  });
}
