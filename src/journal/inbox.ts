import type { ChannelListener } from './channel.ts';
import type { BatchMessage } from './message.ts';

/**
 * What the live bus brought while a follower was busy. Bounded: when a message does not fit, all
 * are dropped, and the gap is read from Postgres.
 */
export class Inbox implements ChannelListener {
  readonly #maxLength: number;
  readonly #onOverflow: (() => void) | undefined;
  #messages: BatchMessage[] = [];
  #length = 0;
  #gap = false;
  #stopped = false;
  #wake: (() => void) | undefined;

  /** @param onOverflow is called when messages are dropped */
  constructor(maxLength: number, onOverflow?: () => void) {
    this.#maxLength = maxLength;
    this.#onOverflow = onOverflow;
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
    if (this.#length + message.length > this.#maxLength) {
      this.#messages = [];
      this.#length = 0;
      this.#gap = true;
      this.#onOverflow?.();
    } else {
      this.#messages.push(message);
      this.#length += message.length;
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
    if (message !== undefined) this.#length -= message.length;
    return message;
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
