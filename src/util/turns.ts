/** Ends the turn. */
export interface Turn {
  (): void;
  /** So many characters came of it, and are held until its end. */
  brought?: (length: number) => void;
}

/** Turns at something of which there is one, in the order in which they were asked for. */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /**
   * Waits for a turn. The next one begins when the returned function is called.
   *
   * @throws the signal's reason; the turn is then passed on
   */
  async take(signal: AbortSignal | undefined): Promise<Turn> {
    const before = this.#last;
    const turn = Promise.withResolvers<void>();
    this.#last = before.then(() => turn.promise);
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted === true) onAbort();
    try {
      await Promise.race([before, aborted.promise]);
      return turn.resolve;
    } catch (error) {
      turn.resolve();
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

/** Turns at something of which there is one; those who ask for theirs by different keys take them by turns. */
export class FairTurns {
  readonly #queues = new Map<string, (() => void)[]>();
  #taken = false;

  /** Waits for a turn. The next one begins when the returned function is called, which is once. */
  async take(key: string): Promise<() => void> {
    if (this.#taken) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const queue = this.#queues.get(key);
      if (queue === undefined) this.#queues.set(key, [resolve]);
      else queue.push(resolve);
      await promise;
    }
    this.#taken = true;
    return () => this.#next();
  }

  #next(): void {
    const [first] = this.#queues;
    if (first === undefined) {
      this.#taken = false;
      return;
    }
    const [key, queue] = first;
    const resolve = queue.shift();
    // Behind those of other keys.
    this.#queues.delete(key);
    if (queue.length > 0) this.#queues.set(key, queue);
    resolve?.();
  }
}

/** Turns that are both of one and of another. */
export function bothTurns(first: Pick<Turns, 'take'>, second: Pick<Turns, 'take'>): Pick<Turns, 'take'> {
  return {
    async take(signal) {
      const endFirst = await first.take(signal);
      try {
        const endSecond = await second.take(signal);
        const end: Turn = () => {
          endSecond();
          endFirst();
        };
        if (endSecond.brought !== undefined) end.brought = endSecond.brought;
        return end;
      } catch (error) {
        endFirst();
        throw error;
      }
    },
  };
}
