/**
 * Promises that a context gives out. A handler may not await one, as code around an emitter does; such a
 * rejection would end the process, and count as a crash of every job in it.
 */

/** Knows whether anybody has asked for its outcome. */
class GivenPromise<T> extends Promise<T> {
  isRead = false;

  /** What `then` and `catch` make is the handler's own. */
  static override get [Symbol.species]() {
    return Promise;
  }

  // biome-ignore lint/suspicious/noThenProperty: `await` comes here, because this is not a plain Promise.
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.isRead = true;
    return super.then(onFulfilled, onRejected);
  }
}

/** By error of a context: tells the log of its job. */
const tellers = new WeakMap<object, (error: unknown) => void>();

/**
 * Writes a rejection that nobody handled to the log of its job, where a context gave it out.
 *
 * @returns false: no context did
 */
export function tellJob(error: unknown): boolean {
  const tell = typeof error === 'object' && error !== null ? tellers.get(error) : undefined;
  tell?.(error);
  return tell !== undefined;
}

/**
 * Makes promises whose rejection ends no process where nobody reads it.
 *
 * @param onUnread gets the first such rejection of a run; a timer that emits has hundreds
 */
export function giver(onUnread: (error: unknown) => void): <T>(call: () => Promise<T>) => Promise<T> {
  let told = false;
  const tell = (error: unknown) => {
    if (told) return;
    told = true;
    onUnread(error);
  };
  return <T>(call: () => Promise<T>) => {
    const given = new GivenPromise<T>((resolve) => resolve(call()));
    Promise.prototype.then.call(given, undefined, (error: unknown) => {
      if (typeof error === 'object' && error !== null) tellers.set(error, tell);
      // Whoever awaits it has had its turn by then.
      setImmediate(() => {
        if (!given.isRead) tell(error);
      });
    });
    return given;
  };
}
