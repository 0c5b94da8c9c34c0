import { isTransient } from '../db/transient.ts';
import type { FollowedBatch } from './batches.ts';
import type { Cursor } from './cursor.ts';
import type { JobEvent, StreamEvent } from './event.ts';
import { Inbox } from './inbox.ts';

/** A stream being followed. `return()` also ends a `next()` that waits. */
export interface Following<E extends JobEvent = JobEvent> extends AsyncGenerator<StreamEvent<E>, void, undefined> {
  /** What to follow `after` to continue from here: past every event given, and those that `types` left out. */
  readonly cursor: Cursor;
}

/** Follows nothing: throws on the first `next()`. */
export function failedFollowing(error: Error, after: Cursor): Following {
  // biome-ignore lint/correctness/useYield: it ends before it could.
  const open = async function* (): AsyncGenerator<FollowedBatch, void, undefined> {
    throw error;
  };
  return new StoppableFollowing({ open: () => ({ batches: open(), inbox: new Inbox(0) }), after });
}

/** Pauses between tries while Postgres is unreachable, in ms: doubled up to the longest. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

/** Batches from a cursor on, and what wakes them. */
export interface OpenedBatches {
  batches: AsyncGenerator<FollowedBatch, void, undefined>;
  inbox: Inbox;
}

interface FollowingOptions {
  /** Called again with the cursor of the moment when Postgres could not be reached. */
  open(after: Cursor): OpenedBatches;
  after: Cursor;
  types?: ReadonlySet<string> | undefined;
  signal?: AbortSignal | undefined;
  /** False: what the connection to Postgres met is thrown. */
  throughOutages?: boolean | undefined;
}

/**
 * Batches as their events. Not a generator: its `return()` would wait for the `next()` before it,
 * and so for an event.
 *
 * While Postgres is unreachable a `next()` waits: what the reader has is known, so nothing is told twice.
 */
export class StoppableFollowing implements Following {
  readonly #options: FollowingOptions;
  #batches: AsyncGenerator<FollowedBatch, void, undefined>;
  /** What is left of the last batch. */
  #events: Iterator<StreamEvent> | undefined;
  /** The last answer that is still pending. */
  #asked: Promise<IteratorResult<StreamEvent, void>> | undefined;
  #inbox: Inbox;
  /** Tries in a row that found no Postgres. */
  #failures = 0;
  #cursor: Cursor;
  #stopped = false;

  constructor(options: FollowingOptions) {
    this.#options = options;
    this.#cursor = options.after;
    ({ batches: this.#batches, inbox: this.#inbox } = options.open(options.after));
  }

  get cursor(): Cursor {
    return this.#cursor;
  }

  next(): Promise<IteratorResult<StreamEvent, void>> {
    const step = () => this.#step();
    // Calls that come before the last answer are answered in turn, as a generator's are.
    const answer = this.#asked === undefined ? step() : this.#asked.then(step, step);
    const answered = () => {
      if (this.#asked === answer) this.#asked = undefined;
    };
    this.#asked = answer;
    answer.then(answered, answered);
    return answer;
  }

  async #step(): Promise<IteratorResult<StreamEvent, void>> {
    const { types } = this.#options;
    for (;;) {
      const event = this.#take();
      if (event instanceof Error) {
        this.#stop();
        await this.#batches.return();
        throw event.cause;
      }
      if (event === undefined) {
        const batch = await this.#nextBatch();
        if (batch.done === true) return batch;
        if (this.#stopped) return { done: true, value: undefined };
        this.#events = batch.value[Symbol.iterator]();
        continue;
      }
      this.#cursor = event.cursor;
      if (types === undefined || types.has(event.event.type)) return { done: false, value: event };
    }
  }

  async #nextBatch(): Promise<IteratorResult<FollowedBatch, void>> {
    for (;;) {
      try {
        const batch = await this.#batches.next();
        this.#failures = 0;
        return batch;
      } catch (error) {
        if (!isTransient(error) || this.#stopped || this.#options.throughOutages === false) throw error;
        await this.#reopen();
        if (this.#stopped) return { done: true, value: undefined };
      }
    }
  }

  async #reopen(): Promise<void> {
    const { open, signal } = this.#options;
    // Its own inbox: the last one has what is behind the cursor.
    ({ batches: this.#batches, inbox: this.#inbox } = open(this.#cursor));
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures++, LONGEST_PAUSE_MS);
    await this.#inbox.wait(pause, signal);
  }

  async return(): Promise<IteratorResult<StreamEvent, void>> {
    this.#stop();
    await this.#batches.return();
    return { done: true, value: undefined };
  }

  async throw(error: unknown): Promise<IteratorResult<StreamEvent, void>> {
    this.#stop();
    await this.#batches.return();
    throw error;
  }

  #stop(): void {
    this.#stopped = true;
    this.#inbox.stop();
    this.#events = undefined;
  }

  /** The next event of the batch at hand; an Error with what was thrown (the signal's reason) as its cause. */
  #take(): StreamEvent | Error | undefined {
    try {
      const step = this.#events?.next();
      if (step?.done === false) return step.value;
    } catch (cause) {
      return new Error('The batch broke off', { cause });
    }
    this.#events = undefined;
    return undefined;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}
