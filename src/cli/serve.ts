/** Runs what stays up (`web`, `work`, `dev`) until a signal, and closes it in order. */
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { tellJob } from '../runs/reads.ts';
import { Lifecycle } from '../util/lifecycle.ts';
import { onSignals } from './signals.ts';

/** Beyond the drain of ONCEFLEET_SHUTDOWN_MS: interrupted handlers, the journal's last flush, Redis and Postgres saying goodbye. */
const CLOSE_MARGIN_MS = 10_000;
const HURRY_LIMIT_MS = 8_000;
/** A log destination that takes nothing any more must not hold up the end. */
const LOG_FLUSH_LIMIT_MS = 1_000;

/**
 * Calls `start`, which opens things and registers their closers, then waits.
 *
 * The first SIGTERM or SIGINT closes everything: running jobs get ONCEFLEET_SHUTDOWN_MS to
 * finish. A second one interrupts them. The process ends here in every case: 0 when all
 * closed, 70 when closing failed or hung.
 */
export async function serve(
  config: Config,
  log: Logger,
  start: (lifecycle: Lifecycle) => Promise<void>,
): Promise<void> {
  const lifecycle = new Lifecycle({ log, limitMs: config.shutdownMs + CLOSE_MARGIN_MS, hurryLimitMs: HURRY_LIMIT_MS });
  const stopped = Promise.withResolvers<void>();
  onSignals((signal, count) => {
    if (count === 1) {
      log.info(
        { signal, shutdownMs: config.shutdownMs },
        'Closing: running jobs may finish; a second signal interrupts them',
      );
      stopped.resolve();
    } else {
      log.warn({ signal }, 'Closing now: running jobs are interrupted and will continue elsewhere');
      lifecycle.hurry();
    }
  });
  // The state is unknown from here on, and a job that brings down its worker must count as
  // one that crashed it: no drain, the leases run out.
  const crash = (err: unknown) => {
    log.fatal({ err }, 'Unhandled error; the process ends');
    void flushLog(log).finally(() => process.exit(70));
  };
  process.on('uncaughtException', crash);
  // A promise that nobody awaited has changed no state. To end the process for one would count as a
  // crash of every job in it.
  process.on('unhandledRejection', (err) => {
    if (!tellJob(err)) log.error({ err }, 'A rejection that nobody handled; the process continues');
  });

  try {
    await Promise.race([start(lifecycle), stopped.promise]);
    await stopped.promise;
  } catch (error) {
    lifecycle.hurry();
    await lifecycle.close().catch(() => {});
    await flushLog(log);
    throw error;
  }
  try {
    await lifecycle.close();
    log.info('Closed');
  } catch (err) {
    log.fatal({ err }, 'Closing failed; the process ends');
    await flushLog(log);
    process.exit(70);
  }
  await flushLog(log);
  // Whatever a user's module left open (timers, sockets) does not keep a closed process alive.
  process.exit(0);
}

function flushLog(log: Logger): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, LOG_FLUSH_LIMIT_MS).unref();
    log.flush(() => resolve());
  });
}
