/**
 * `promise`, or what `late` gives or throws when it has not settled after `ms`. The promise is
 * then left to itself, its rejection too. Holds the event loop no longer than that.
 */
export async function within<T, U>(ms: number, promise: Promise<T>, late: () => U): Promise<T | U> {
  const { promise: limit, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  try {
    return await Promise.race([promise, limit.then(late)]);
  } finally {
    clearTimeout(timer);
  }
}
