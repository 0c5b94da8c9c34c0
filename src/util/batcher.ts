interface BatcherOptions<In, Out> {
  /** Gives one output per input, in order; a rejection is every caller's, unless `isolate` says otherwise. */
  run(items: readonly In[]): Promise<readonly Out[]>;
  /** True for an error that one item may have caused: each item is then run alone. */
  isolate?(error: unknown): boolean;
  maxBatch: number;
  maxInFlight: number;
}

/**
 * While a batch is in flight another starts only when so many calls wait, and no fewer than
 * are in flight: a second small batch would cost a whole statement and commit, and keep the
 * first's successors small. Measured at 100 jobs at once: a third less Postgres time a job
 * than with three batches in flight whenever there was a call; with 48 a quarter more than with 96.
 */
const WORTH_ANOTHER = 96;

interface Entry<In, Out> {
  item: In;
  resolve(output: Out): void;
  reject(error: unknown): void;
}

/**
 * Lets concurrent calls share a statement.
 *
 * An idle batcher runs a call with the others of its turn of the event loop; calls that arrive
 * while a batch runs wait for the next one, so batches grow with load alone.
 */
export class Batcher<In, Out> {
  readonly #options: BatcherOptions<In, Out>;
  #waiting: Entry<In, Out>[] = [];
  #inFlight = 0;
  #itemsInFlight = 0;
  #scheduled = false;

  constructor(options: BatcherOptions<In, Out>) {
    this.#options = options;
  }

  call(item: In): Promise<Out> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#scheduled || !this.#mayStart()) return;
    this.#scheduled = true;
    // At the end of the turn: more calls share the statement, and what the turn has for Redis is
    // sent first. Postgres may take over our core the moment it gets something to do, and Redis
    // would wait as well. Measured against a microtask: 6 % more jobs a second at 100 at once,
    // 16 % at 32, 23 % at 8, 2 % fewer one at a time.
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#mayStart()) {
        void this.#run(this.#waiting.splice(0, this.#options.maxBatch));
      }
    });
  }

  #mayStart(): boolean {
    const waiting = this.#waiting.length;
    if (waiting === 0 || this.#inFlight >= this.#options.maxInFlight) return false;
    return this.#inFlight === 0 || waiting >= Math.max(WORTH_ANOTHER, this.#itemsInFlight);
  }

  async #run(entries: Entry<In, Out>[]): Promise<void> {
    this.#inFlight++;
    this.#itemsInFlight += entries.length;
    try {
      const outputs = await this.#options.run(entries.map((entry) => entry.item));
      for (const [i, entry] of entries.entries()) entry.resolve(outputs[i] as Out);
    } catch (error) {
      if (entries.length > 1 && this.#options.isolate?.(error) === true) await this.#runAlone(entries);
      else for (const entry of entries) entry.reject(error);
    } finally {
      this.#inFlight--;
      this.#itemsInFlight -= entries.length;
      if (this.#waiting.length > 0) this.#schedule();
    }
  }

  async #runAlone(entries: Entry<In, Out>[]): Promise<void> {
    for (const entry of entries) {
      try {
        const [output] = await this.#options.run([entry.item]);
        entry.resolve(output as Out);
      } catch (error) {
        entry.reject(error);
      }
    }
  }
}
