import type { ChannelListener } from './channel.ts';
import type { BatchMessage } from './message.ts';

/** Characters of messages, after each of which it is asked whether there is room for more. */
const KEEP_STEP = 64 * 1024;

/**
 * What the live bus brought while a follower was busy. Bounded: when a message does not fit, all
 * are dropped, and the gap is read from Postgres.
 */
export class Inbox implements ChannelListener {
  readonly #maxLength: number;
  readonly #onOverflow: (() => void) | undefined;
  readonly #keep: ((length: number) => boolean) | undefined;
  /** Whole steps of characters that are kept. */
  #steps = 0;
  #messages: BatchMessage[] = [];
  #length = 0;
  #gap = false;
  #stopped = false;
  #wake: (() => void) | undefined;

  /**
   * @param onOverflow is called when messages are dropped
   * @param keep is asked whether there is room for so many characters, and told when they are fewer
   */
  constructor(maxLength: number, onOverflow?: () => void, keep?: (length: number) => boolean) {
    this.#maxLength = maxLength;
    this.#onOverflow = onOverflow;
    this.#keep = keep;
  }

  /** Something may be missing: the head is to be checked. */
  get gap(): boolean {
    return this.#gap;
  }

  /** The reader has left. */
  get stopped(): boolean {
    return this.#stopped;
  }

  onBatch(message: BatchMessage): void {
    const length = this.#length + message.length;
    if (length > this.#maxLength || !this.#resize(length)) {
      this.clear();
      this.#gap = true;
      this.#onOverflow?.();
    } else {
      this.#messages.push(message);
      this.#length = length;
    }
    this.#wake?.();
  }

  onGap(): void {
    this.#gap = true;
    this.#wake?.();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake?.();
  }

  take(): BatchMessage | undefined {
    const message = this.#messages.shift();
    if (message !== undefined) {
      this.#length -= message.length;
      this.#resize(this.#length);
    }
    return message;
  }

  /** Nothing is kept any more. */
  clear(): void {
    this.#messages = [];
    this.#length = 0;
    this.#resize(0);
  }

  /** @returns whether there is room for so many characters */
  #resize(length: number): boolean {
    const steps = Math.floor(length / KEEP_STEP);
    if (steps === this.#steps || this.#keep === undefined) return true;
    if (!this.#keep(steps * KEEP_STEP)) return false;
    this.#steps = steps;
    return true;
  }

  /**
   * Call it before the head is read, not after: whatever was missed until now was committed
   * before, so that read sees it; what is missed from now on sets the flag again.
   */
  checkingHead(): void {
    this.#gap = false;
  }

  /** True when a message or a gap came or the reader left, false after `timeoutMs`. @throws the signal's reason */
  async wait(timeoutMs: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#messages.length > 0 || this.#gap || this.#stopped) return true;
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), timeoutMs);
    const onAbort = () => reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#wake = () => resolve(true);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      this.#wake = undefined;
    }
  }
}
