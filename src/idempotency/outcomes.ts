/**
 * Waiting for jobs to end. All waiters of a process for one job share one subscription, and
 * one statement at intervals looks at every job waited for: no worker slot, no polling storm.
 */
import type { Kysely } from 'kysely';
import { findOutcomes, type Outcome } from '../db/jobs.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { ChannelHub } from '../journal/channel.ts';
import type { Logger } from '../log.ts';

interface Waited {
  outcome: PromiseWithResolvers<Outcome>;
  waiters: number;
  unsubscribe(): void;
}

/** How often jobs waited for are looked at, should a live message be missed, ms. */
const CHECK_MS = 2_000;

/** Terminal messages of the same moment share a look, ms. */
const HINT_LINGER_MS = 1;

export class Outcomes {
  readonly #db: Kysely<Database>;
  readonly #hub: ChannelHub;
  readonly #log: Logger;
  readonly #waited = new Map<string, Waited>();
  readonly #hinted = new Set<string>();
  #hintTimer: NodeJS.Timeout | undefined;
  #checkTimer: NodeJS.Timeout | undefined;

  constructor(options: { db: Kysely<Database>; hub: ChannelHub; log: Logger }) {
    this.#db = options.db;
    this.#hub = options.hub;
    this.#log = options.log;
  }

  /** Resolves with what a job ended in. @throws the signal's reason */
  async wait(jobId: string, signal: AbortSignal | undefined): Promise<Outcome> {
    signal?.throwIfAborted();
    const waited = this.#waited.get(jobId) ?? this.#start(jobId);
    waited.waiters++;
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
    clearInterval(this.#checkTimer);
    for (const [jobId, waited] of this.#waited) this.#stop(jobId, waited);
  }

  #start(jobId: string): Waited {
    const look = () => this.#hint(jobId);
    // Subscribed or back after a cut: the end may have passed unheard, so look.
    const unsubscribe = this.#hub.subscribe(jobId, { onRun: (run) => run.end && look(), onGap: look });
    const waited: Waited = { outcome: Promise.withResolvers(), waiters: 0, unsubscribe };
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

  async #look(ids: string[]): Promise<void> {
    if (ids.length === 0) return;
    try {
      for (const outcome of await findOutcomes(this.#db, ids)) this.#waited.get(outcome.id)?.outcome.resolve(outcome);
    } catch (err) {
      if (isTransient(err)) this.#log.debug({ err }, 'outcomes not looked at; the next check will');
      else this.#log.error({ err }, 'outcomes cannot be looked at');
    }
  }
}
