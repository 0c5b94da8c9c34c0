import { now } from './clock.ts';

/** What readers of several streams have received: every seq once, in order. */
export class Receipts {
  readonly #next: number[];
  #latencies: number[] = [];
  #awaited: { upTo: number; missing: number; done: PromiseWithResolvers<number[]> } | undefined;
  #failure: Error | undefined;

  /** @param readers how many; each starts at seq 0 */
  constructor(readers: number) {
    this.#next = Array.from({ length: readers }, () => 0);
  }

  /** @param at when it was emitted, in milliseconds on the shared clock */
  take(reader: number, seq: number, at: number | undefined): void {
    const expected = this.#next[reader] as number;
    if (seq !== expected) {
      this.fail(new Error(`reader ${reader} got seq ${seq} where ${expected} was due`));
      return;
    }
    this.#next[reader] = seq + 1;
    if (at !== undefined) this.#latencies.push(now() - at);
    const awaited = this.#awaited;
    if (awaited === undefined || seq + 1 !== awaited.upTo || --awaited.missing > 0) return;
    this.#awaited = undefined;
    awaited.done.resolve(this.#takeLatencies());
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#awaited?.done.reject(error);
  }

  /**
   * Resolves when every reader has had so many events.
   *
   * @returns emit to arrival, in milliseconds, of the events since the last call that have a time
   * @throws Error a reader got an event twice, or too late, or broke off
   */
  async until(upTo: number): Promise<number[]> {
    if (this.#failure !== undefined) throw this.#failure;
    const missing = this.#next.filter((next) => next < upTo).length;
    if (missing === 0) return this.#takeLatencies();
    this.#awaited = { upTo, missing, done: Promise.withResolvers() };
    return this.#awaited.done.promise;
  }

  #takeLatencies(): number[] {
    const latencies = this.#latencies;
    this.#latencies = [];
    return latencies;
  }
}
