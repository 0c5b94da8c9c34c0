/** Runs few things at once, and lets few wait. */
export class Limiter {
  readonly #atOnce: number;
  readonly #maxWaiting: number;
  readonly #refusal: () => Error;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  /** @param options.refusal what a call is refused with when too many wait */
  constructor(options: { atOnce: number; maxWaiting: number; refusal: () => Error }) {
    this.#atOnce = options.atOnce;
    this.#maxWaiting = options.maxWaiting;
    this.#refusal = options.refusal;
  }

  /** Nothing runs or waits. */
  get idle(): boolean {
    return this.#running === 0;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running < this.#atOnce) this.#running++;
    else {
      if (this.#waiting.length >= this.#maxWaiting) throw this.#refusal();
      // A task that ends hands its place over.
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running--;
      else next();
    }
  }
}
