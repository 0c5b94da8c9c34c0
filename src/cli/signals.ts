/** SIGINT and SIGTERM, each press counted once. */

/**
 * A terminal sends Ctrl-C to every process of its group, and npm and bin/oncefleet.mjs
 * forward what they got: one press arrives two or three times within a few ms. Nobody
 * presses twice so fast.
 */
const SAME_PRESS_MS = 200;

/**
 * Calls `handler` with the signal and how many came before and with it.
 *
 * @returns stops listening; the default (to end the process) holds again
 */
export function onSignals(handler: (signal: NodeJS.Signals, count: number) => void): () => void {
  let count = 0;
  let lastAt = Number.NEGATIVE_INFINITY;
  const listener = (signal: NodeJS.Signals) => {
    const now = performance.now();
    if (now - lastAt < SAME_PRESS_MS) return;
    lastAt = now;
    count++;
    handler(signal, count);
  };
  process.on('SIGINT', listener);
  process.on('SIGTERM', listener);
  return () => {
    process.off('SIGINT', listener);
    process.off('SIGTERM', listener);
  };
}

export interface Interrupt extends Disposable {
  /** Aborts at the first signal. */
  readonly signal: AbortSignal;
  /** Which one it was. */
  readonly by: NodeJS.Signals | undefined;
}

/** For commands that watch: the first signal stops the watching, a second one the process. */
export function listenForInterrupt(): Interrupt {
  const controller = new AbortController();
  let by: NodeJS.Signals | undefined;
  const stop = onSignals((signal, count) => {
    by ??= signal;
    if (count === 1) controller.abort();
    else process.exit(signal === 'SIGTERM' ? 143 : 130);
  });
  return {
    signal: controller.signal,
    get by() {
      return by;
    },
    [Symbol.dispose]: stop,
  };
}
