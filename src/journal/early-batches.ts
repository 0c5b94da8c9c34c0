import type { BatchMessage } from './message.ts';

/**
 * Messages sent ahead of their commit that lie beyond the event a reader wants next. Bounded: what
 * is dropped is read from Postgres once it is committed.
 */
export class EarlyBatches {
  readonly #maxLength: number;
  /** By first seq. */
  #messages: BatchMessage[] = [];
  #length = 0;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  get isEmpty(): boolean {
    return this.#messages.length === 0;
  }

  add(message: BatchMessage): void {
    // A committed one can be read from the journal.
    if (message.committed) return;
    if (this.#length + message.length > this.#maxLength) {
      this.#messages = [];
      this.#length = 0;
    }
    let at = this.#messages.length;
    while (at > 0 && (this.#messages[at - 1] as BatchMessage).firstSeq > message.firstSeq) at--;
    this.#messages.splice(at, 0, message);
    this.#length += message.length;
  }

  /** What an owner sent ahead is void once a later one has the stream. */
  forgetBelow(fence: number): void {
    this.#messages = this.#messages.filter((message) => message.fence >= fence);
    this.#length = this.#messages.reduce((length, message) => length + message.length, 0);
  }

  /** The earliest, once nothing is missing before it. */
  take(next: number): BatchMessage | undefined {
    const [first] = this.#messages;
    if (first === undefined || first.firstSeq > next) return undefined;
    this.#messages.shift();
    this.#length -= first.length;
    return first;
  }
}
