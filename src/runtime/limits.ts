/**
 * Who is woken when a place under a limit comes free: as many jobs as there are places, by whatever process has freed
 * one. A wake that is lost with its process is made up for by the reconciler.
 */
import type { Kysely } from 'kysely';
import type { KeyWake } from '../db/jobs/claim-answer.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { defineLimits, findKeys, findWaitingKeys, pauseKeys, tidyKeys, wakeKeys } from '../db/limits.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { JobLimit } from '../jobs/limits.ts';
import type { Logger } from '../log.ts';
import { Batcher } from '../util/batcher.ts';

/** Keys that this process looks at again by its own timer; more are left to the reconciler. */
const MAX_TIMERS = 1_000;
/** Places that come free one after the other are given out together. */
const SHORTEST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 60_000;

/** Keys that a round of the reconciler looks at. */
const KEYS_PER_ROUND = 500;

interface LimitsOptions {
  db: Kysely<Database>;
  /** Has BullMQ deliver a job now. Must not throw. */
  deliver(row: DispatchRow): Promise<void>;
  log: Logger;
}

export class Limits {
  readonly #options: LimitsOptions;
  readonly #wakes: Batcher<string, void>;
  readonly #timers = new Map<string, { at: number; timer: NodeJS.Timeout }>();
  readonly #defined = new WeakMap<readonly JobLimit[], Promise<void>>();
  /** Where the next round of the reconciler continues. */
  #waitingCursor: string | undefined;
  #keyCursor: string | undefined;
  #closed = false;

  constructor(options: LimitsOptions) {
    this.#options = options;
    this.#wakes = new Batcher({
      run: async (keys) => {
        await this.#wake(keys);
        return keys.map(() => undefined);
      },
      maxBatch: 200,
      maxInFlight: 1,
    });
  }

  /** Notes the limits of a definition before its first claim. Once a process, so later claims do not wait. */
  define(limits: readonly JobLimit[]): Promise<void> {
    let defined = this.#defined.get(limits);
    if (defined === undefined) {
      defined = this.#define(limits).catch((error: unknown) => {
        this.#defined.delete(limits);
        throw error;
      });
      this.#defined.set(limits, defined);
    }
    return defined;
  }

  /** Places under these keys may have come free. Never throws: the reconciler finds what is missed. */
  wake(keys: readonly string[]): void {
    if (this.#closed) return;
    for (const key of new Set(keys)) {
      this.#wakes.call(key).catch((err: unknown) => {
        const level = isTransient(err) ? 'debug' : 'warn';
        this.#options.log[level]({ err }, 'jobs that wait for a place not woken; the reconciler will do it');
      });
    }
  }

  /** Looks for free places of keys when they may have come free by themselves. */
  lookAgain(wakes: readonly KeyWake[]): void {
    for (const { key, againInMs } of wakes) {
      const ms = Math.min(LONGEST_PAUSE_MS, Math.max(SHORTEST_PAUSE_MS, againInMs + 1));
      const at = performance.now() + ms;
      const set = this.#timers.get(key);
      if (this.#closed || (set !== undefined && set.at <= at)) continue;
      if (set === undefined && this.#timers.size >= MAX_TIMERS) continue;
      clearTimeout(set?.timer);
      const timer = setTimeout(() => {
        this.#timers.delete(key);
        this.wake([key]);
      }, ms);
      timer.unref();
      this.#timers.set(key, { at, timer });
    }
  }

  /** No job of these keys starts for this time, in any process. */
  async pause(keys: readonly string[], ms: number): Promise<void> {
    await pauseKeys(this.#options.db, keys, ms);
    this.lookAgain(keys.map((key) => ({ key, againInMs: ms })));
  }

  /** A round of the reconciler: what has missed its wake is woken, what nobody needs is removed. @returns how many were woken */
  async repair(): Promise<number> {
    const { db } = this.#options;
    const waiting = await findWaitingKeys(db, this.#waitingCursor, KEYS_PER_ROUND);
    this.#waitingCursor = waiting.length < KEYS_PER_ROUND ? undefined : waiting.at(-1);
    const used = await findKeys(db, this.#keyCursor, KEYS_PER_ROUND);
    this.#keyCursor = used.length < KEYS_PER_ROUND ? undefined : used.at(-1);
    if (waiting.length + used.length === 0) return 0;
    await tidyKeys(db, [...new Set([...waiting, ...used])].sort());
    return this.#wake(waiting);
  }

  /** Stops waking. Idempotent. */
  close(): void {
    this.#closed = true;
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  async #define(limits: readonly JobLimit[]): Promise<void> {
    const changed = await defineLimits(this.#options.db, limits);
    if (changed.length > 0) this.#options.log.info({ limits: changed }, 'limits defined');
  }

  async #wake(keys: readonly string[]): Promise<number> {
    const { db, deliver } = this.#options;
    const woken = await wakeKeys(db, keys);
    this.lookAgain(woken.keys.flatMap(({ key, againInMs }) => (againInMs === undefined ? [] : [{ key, againInMs }])));
    await Promise.all(woken.jobs.map((row) => deliver(row)));
    return woken.jobs.length;
  }
}
