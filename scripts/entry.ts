/** What the programs that scripts/bootstrap.mjs starts have in common. */
import { constants } from 'node:os';

const POLL_MS = 500;
/** Ctrl-C reaches a program from the terminal and from what started it, within a few ms. */
const SAME_PRESS_MS = 300;

/**
 * Calls `onGone` when the bootstrap that started this process is gone without having passed
 * a signal on (SIGKILL). Servers follow through their watchdog.
 */
export function watchBootstrap(onGone: () => void = () => process.exit(exitCodeOf('SIGHUP'))): void {
  const bootstrap = Number(process.env.BOOTSTRAP_PID);
  if (!Number.isInteger(bootstrap) || bootstrap !== process.ppid) return;
  const timer = setInterval(() => {
    if (process.ppid === bootstrap) return;
    clearInterval(timer);
    onGone();
  }, POLL_MS);
  timer.unref();
}

export interface Stop {
  /** Aborts at the first signal. */
  readonly signal: AbortSignal;
  /** What was sent. */
  readonly by: NodeJS.Signals | undefined;
}

/** The first signal asks for an orderly end; another one ends the process, and the watchdog cleans up. */
export function listenForStop(): Stop {
  const controller = new AbortController();
  let by: NodeJS.Signals | undefined;
  let at = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    if (by !== undefined && Date.now() - at > SAME_PRESS_MS) process.exit(exitCodeOf(signal));
    if (by !== undefined) return;
    by = signal;
    at = Date.now();
    controller.abort(new Error(`Stopped by ${signal}`));
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  watchBootstrap(() => onSignal('SIGHUP'));
  return {
    signal: controller.signal,
    get by() {
      return by;
    },
  };
}

export function exitCodeOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}
