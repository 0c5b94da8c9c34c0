/**
 * Holds up those who read much while what they have read before waits for the collector.
 *
 * Large texts and buffers lie outside of V8's heap, and their memory comes back with a collection alone. V8 puts one
 * off while they grow: readers of events of 3.7 MiB had it at 600 MiB, though 16 MiB of that were in use. There is no
 * way to ask for a collection, but a moment without such reads lets the one that has begun come to its end.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** Shorter texts lie in the heap, where V8 keeps up with them. */
const LARGE_BYTES = 256 * 1024;
const STEP_MS = 10;
/** A process that needs so much of it for something else is slow, and never stuck. */
const MOST_STEPS = 50;
/** Accounts that are remembered; with more of them, all are forgotten. */
const MAX_ACCOUNTS = 1_000;

export class Uncollected {
  readonly #limit: number;
  readonly #bytesOutside: () => number;
  /** Those that have read something large since they were last held up. */
  readonly #accounts = new Set<string>();

  /**
   * @param limit bytes outside of the heap, in use or not, above which large readers wait
   * @param bytesOutside what V8 knows to be there
   */
  constructor(limit: number, bytesOutside: () => number = () => process.memoryUsage().external) {
    this.#limit = limit;
    this.#bytesOutside = bytesOutside;
  }

  /** Something of this size was read, or made into an answer. */
  add(account: string, bytes: number): void {
    if (bytes < LARGE_BYTES) return;
    if (this.#accounts.size >= MAX_ACCOUNTS) this.#accounts.clear();
    this.#accounts.add(account);
  }

  /** Before a read: waits for a collection, half a second at the most, where the last one of the account was large. */
  async collected(account: string): Promise<void> {
    if (!this.#accounts.delete(account)) return;
    for (let step = 0; step < MOST_STEPS && this.#bytesOutside() > this.#limit; step++) await sleep(STEP_MS);
  }
}
