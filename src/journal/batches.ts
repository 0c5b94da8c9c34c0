/** Batches of events as followers hand them to their readers. */

import { cursorAt } from './cursor.ts';
import type { JobEvent, StreamEvent } from './event.ts';
import type { BatchMessage } from './message.ts';
import type { Tail } from './tail.ts';

/**
 * A batch of consecutive events. Its reader takes them by iterating or by `skip`. When it asks for
 * the next batch, what is left of a batch of which it has taken a part is in a later one; a batch
 * of which it has taken nothing is passed over.
 */
export interface FollowedBatch extends Iterable<StreamEvent> {
  /**
   * The same object for every reader in this process that gets these very events. Undefined where
   * this reader may be the only one, and once the events are taken.
   */
  readonly source: object | undefined;
  /** Takes the next `count` of them, or as many as there are, without giving them. */
  skip(count: number): void;
}

/** A batch as its follower sees it. */
export interface GivenBatch extends FollowedBatch {
  /** Its reader has taken nothing of it. Were it given again, a reader that has no use for it would be given it for ever. */
  readonly unread: boolean;
}

/**
 * Events read from the journal. Like a live batch it holds nothing once it is taken, because readers
 * keep a batch until they have the next.
 */
export class ReadBatch implements GivenBatch {
  readonly source = undefined;
  #events: Iterator<StreamEvent> | undefined;
  #unread = true;
  readonly #taken: (event: StreamEvent) => void;
  readonly #signal: AbortSignal | undefined;

  constructor(events: Iterable<StreamEvent>, taken: (event: StreamEvent) => void, signal: AbortSignal | undefined) {
    this.#events = events[Symbol.iterator]();
    this.#taken = taken;
    this.#signal = signal;
  }

  /** Whether nothing is left. */
  get taken(): boolean {
    return this.#events === undefined;
  }

  get unread(): boolean {
    return this.#unread;
  }

  skip(count: number): void {
    for (let left = count; left > 0 && this.#take() !== undefined; left--);
  }

  *[Symbol.iterator](): Generator<StreamEvent, void, undefined> {
    for (let event = this.#take(); event !== undefined; event = this.#take()) yield event;
  }

  #take(): StreamEvent | undefined {
    this.#signal?.throwIfAborted();
    this.#unread = false;
    const step = this.#events?.next();
    if (step === undefined || step.done === true) {
      this.#events = undefined;
      return undefined;
    }
    this.#taken(step.value);
    return step.value;
  }
}

/** The events of a live message that its reader does not have yet. */
export class LiveBatch implements GivenBatch {
  #source: object | undefined;
  #unread = true;
  #texts: readonly string[];
  readonly #firstSeq: number;
  readonly #fence: number;
  readonly #committed: boolean;
  readonly #tail: Tail;
  readonly #immediate: boolean;
  readonly #signal: AbortSignal | undefined;

  constructor(
    message: BatchMessage,
    texts: readonly string[],
    tail: Tail,
    immediate: boolean,
    signal: AbortSignal | undefined,
  ) {
    this.#source = tail.next === message.firstSeq ? message : undefined;
    this.#texts = texts;
    this.#firstSeq = message.firstSeq;
    this.#fence = message.fence;
    this.#committed = message.committed;
    this.#tail = tail;
    this.#immediate = immediate;
    this.#signal = signal;
  }

  get source(): object | undefined {
    return this.#source;
  }

  get unread(): boolean {
    return this.#unread;
  }

  skip(count: number): void {
    // Even of none: another reader has found that the message holds no event, and the journal has them.
    this.#unread = false;
    const left = this.#firstSeq + this.#texts.length - this.#tail.next;
    const taken = Math.min(count, left);
    if (taken > 0) this.#take(this.#tail.next + taken - 1);
    if (taken >= left) this.#release();
  }

  *[Symbol.iterator](): Generator<StreamEvent, void, undefined> {
    const firstSeq = this.#firstSeq;
    const fence = this.#fence;
    const texts = this.#texts;
    for (let seq = this.#tail.next; seq - firstSeq < texts.length; seq++) {
      this.#signal?.throwIfAborted();
      this.#unread = false;
      const json = texts[seq - firstSeq] as string;
      const event = parseEvent(json);
      // The message is a mere hint where it holds no event: the journal does.
      if (event === undefined) break;
      this.#take(seq);
      yield { seq, fence, cursor: cursorAt(seq, fence, this.#immediate), event, json };
    }
    this.#release();
  }

  #take(seq: number): void {
    if (this.#committed) this.#tail.durable(seq, this.#fence);
    else this.#tail.ahead(seq, this.#fence);
  }

  #release(): void {
    this.#source = undefined;
    this.#texts = [];
  }
}

/** `undefined` for what is no event: every client of Redis can publish on a channel. */
function parseEvent(json: string): JobEvent | undefined {
  try {
    const event = JSON.parse(json) as JobEvent | null;
    return typeof event?.type === 'string' ? event : undefined;
  } catch {
    return undefined;
  }
}
