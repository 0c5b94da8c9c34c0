/**
 * What a process opened, and the order in which it closes.
 *
 * Knows nothing of signals: `cli/serve.ts` turns them into `close()` and `hurry()`.
 */
import { OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** Closes one thing. `signal` aborts when closing is to be hurried: running work is then interrupted, not awaited. */
type Closer = (signal: AbortSignal) => Promise<unknown> | unknown;

interface LifecycleOptions {
  log: Logger;
  /** Longest that closing may take as a whole. */
  limitMs: number;
  /** Longest that closing may take after `hurry()`. */
  hurryLimitMs: number;
}

/**
 * Closers, run in reverse order of their opening: what was opened last rests on what was
 * opened first. One that throws is reported and does not keep the others from running.
 */
export class Lifecycle {
  readonly #log: Logger;
  readonly #limitMs: number;
  readonly #hurryLimitMs: number;
  readonly #closers: { name: string; close: Closer }[] = [];
  readonly #hurried = new AbortController();
  #current: string | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: LifecycleOptions) {
    this.#log = options.log;
    this.#limitMs = options.limitMs;
    this.#hurryLimitMs = options.hurryLimitMs;
  }

  /**
   * Registers a closer; `name` says in logs what it closes.
   *
   * Once closing has begun the closer runs at once and is awaited, so that nothing which a
   * slow start opens late stays open.
   */
  async add(name: string, close: Closer): Promise<void> {
    if (this.#closing === undefined) this.#closers.push({ name, close });
    else await close(this.#hurried.signal);
  }

  /**
   * Closes everything. Every call, also a concurrent or later one, gets the same promise.
   *
   * @throws OncefleetError INTERNAL a closer threw (`cause`: an AggregateError), or the limit passed
   */
  close(): Promise<void> {
    this.#closing ??= this.#closeWithinLimit();
    return this.#closing;
  }

  /** Tells the closers to interrupt rather than wait. Before `close()`, the close to come is a hurried one. */
  hurry(): void {
    this.#hurried.abort();
  }

  async #closeWithinLimit(): Promise<void> {
    // These timers hold the event loop on purpose: a closer that hangs without any handle
    // open would otherwise let the process end as if all were well.
    const limit = Promise.withResolvers<never>();
    limit.promise.catch(() => {});
    const expire = (ms: number) =>
      limit.reject(
        new OncefleetError('INTERNAL', `Closing ${this.#current ?? 'the process'} took longer than ${ms} ms`),
      );
    const timer = setTimeout(() => expire(this.#limitMs), this.#limitMs);
    let hurriedTimer: NodeJS.Timeout | undefined;
    const onHurry = () => {
      hurriedTimer = setTimeout(() => expire(this.#hurryLimitMs), this.#hurryLimitMs);
    };
    if (this.#hurried.signal.aborted) onHurry();
    else this.#hurried.signal.addEventListener('abort', onHurry, { once: true });
    try {
      await Promise.race([this.#runClosers(), limit.promise]);
    } finally {
      clearTimeout(timer);
      clearTimeout(hurriedTimer);
      this.#hurried.signal.removeEventListener('abort', onHurry);
    }
  }

  async #runClosers(): Promise<void> {
    const errors: unknown[] = [];
    for (let closer = this.#closers.pop(); closer !== undefined; closer = this.#closers.pop()) {
      this.#current = closer.name;
      this.#log.debug({ closer: closer.name }, 'Closing');
      try {
        await closer.close(this.#hurried.signal);
      } catch (err) {
        this.#log.error({ err, closer: closer.name }, 'Closing failed');
        errors.push(err);
      }
    }
    if (errors.length > 0) {
      throw new OncefleetError('INTERNAL', `Closing failed in ${errors.length} place(s)`, {
        cause: new AggregateError(errors),
      });
    }
  }
}
