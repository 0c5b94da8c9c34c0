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
  const events = (async function* (): AsyncGenerator<FollowedBatch, void, undefined> {
    throw error;
  })();
  return new StoppableFollowing(events, new Inbox(0), after);
}

/**
 * Batches as their events. Not a generator: its `return()` would wait for the `next()` before it,
 * and so for an event.
 */
export class StoppableFollowing implements Following {
  readonly #batches: AsyncGenerator<FollowedBatch, void, undefined>;
  /** What is left of the last batch. */
  #events: Iterator<StreamEvent> | undefined;
  /** The last answer that is still pending. */
  #asked: Promise<IteratorResult<StreamEvent, void>> | undefined;
  readonly #inbox: Inbox;
  readonly #types: ReadonlySet<string> | undefined;
  #cursor: Cursor;
  #stopped = false;

  constructor(
    batches: AsyncGenerator<FollowedBatch, void, undefined>,
    inbox: Inbox,
    after: Cursor,
    types?: ReadonlySet<string>,
  ) {
    this.#batches = batches;
    this.#inbox = inbox;
    this.#cursor = after;
    this.#types = types;
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
    for (;;) {
      const event = this.#take();
      if (event instanceof Error) {
        this.#stop();
        await this.#batches.return();
        throw event.cause;
      }
      if (event === undefined) {
        const batch = await this.#batches.next();
        if (batch.done === true) return batch;
        if (this.#stopped) return { done: true, value: undefined };
        this.#events = batch.value[Symbol.iterator]();
        continue;
      }
      this.#cursor = event.cursor;
      if (this.#types === undefined || this.#types.has(event.event.type)) return { done: false, value: event };
    }
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
