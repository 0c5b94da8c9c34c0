/**
 * What the ingest jobs of a process hold in memory together. Each would be small by itself; a worker runs ten of them
 * at once, and had a gibibyte with ten folders of large files.
 */

/** Lets in what fits; the first that does not waits, and those behind it. */
export class Room {
  readonly #limit: number;
  readonly #waiting: { length: number; enter: () => void }[] = [];
  #held = 0;

  /** @param limit in the unit of `length`; something larger comes in when nothing else is there */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * In the order of calls.
   *
   * @returns leaves it; more than once does no harm
   * @throws the reason of `signal`
   */
  async enter(length: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#waiting.length > 0 || !this.#fits(length)) await this.#wait(length, signal);
    else this.#held += length;
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#held -= length;
      this.#letIn();
    };
  }

  #fits(length: number): boolean {
    return this.#held === 0 || this.#held + length <= this.#limit;
  }

  async #wait(length: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting = { length, enter: resolve };
    const leave = () => {
      const at = this.#waiting.indexOf(waiting);
      if (at === -1) return;
      this.#waiting.splice(at, 1);
      reject(signal.reason);
      this.#letIn();
    };
    this.#waiting.push(waiting);
    signal.addEventListener('abort', leave, { once: true });
    await promise.finally(() => signal.removeEventListener('abort', leave));
  }

  #letIn(): void {
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.length); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#held += next.length;
      next.enter();
    }
  }
}

/** Documents that are read, until they are in a batch: bytes as they were given. */
export const reading = new Room(8 * 1024 * 1024);

/** Batches that are analysed and written, in UTF-16 units: their terms take many times as much. */
export const writing = new Room(1_500_000);
