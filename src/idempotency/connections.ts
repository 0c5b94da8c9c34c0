import { Redis } from 'ioredis';
import type { Logger } from '../log.ts';

/** How often a connection is asked whether it is alive, ms. */
const ASK_EVERY_MS = 1_000;

/** Questions in a row without an answer after which a connection counts as half-open. */
const MAX_SILENT = 4;

/**
 * A Redis connection that reconnects for ever and never throws from the background.
 *
 * @param overrides `enableOfflineQueue: false` for what must fail at once while Redis is away
 */
export function connectRedis(
  url: string,
  name: string,
  log: Logger,
  overrides: { enableOfflineQueue?: boolean; autoResubscribe?: boolean } = {},
): Redis {
  const redis = new Redis(url, {
    connectionName: `oncefleet-${name}`,
    // BullMQ insists on it for blocking connections; elsewhere callers set their own limits.
    maxRetriesPerRequest: null,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 6), 1_000),
    ...overrides,
  });
  // One line per outage, not one per try.
  let reported = false;
  redis.on('error', (err) => {
    if (!reported) log.warn({ err, connection: name }, 'Redis is not reachable; trying again');
    reported = true;
  });
  redis.on('ready', () => {
    if (reported) log.info({ connection: name }, 'Redis is back');
    reported = false;
  });
  endSilence(redis, name, log);
  return redis;
}

/**
 * Ends a connection that went half-open (its other side is gone and nobody was told), so that
 * it is made anew: TCP takes a quarter of an hour to notice, a subscriber that never sends
 * anything does not notice at all.
 *
 * Counts questions, not time: an event loop that was blocked has not listened either.
 */
function endSilence(redis: Redis, name: string, log: Logger): void {
  let silent = 0;
  const timer = setInterval(() => {
    // Connected and still not ready: its handshake has no answer either.
    if (redis.status !== 'ready' && redis.status !== 'connect') {
      silent = 0;
      return;
    }
    if (silent === 0 && redis.status === 'ready') {
      redis.ping().then(
        () => {
          silent = 0;
        },
        () => undefined,
      );
    }
    silent++;
    if (silent <= MAX_SILENT) return;
    silent = 0;
    log.warn({ connection: name }, 'Redis connection ended: it does not answer');
    redis.disconnect(true);
  }, ASK_EVERY_MS);
  timer.unref();
  redis.once('end', () => clearInterval(timer));
}

/** Ends a connection without waiting for a Redis that is away. */
export async function closeRedis(redis: Redis): Promise<void> {
  if (redis.status === 'ready') await redis.quit().catch(() => redis.disconnect());
  else redis.disconnect();
}

/** Every connection duplicated from this one from now on, as BullMQ does for its blocking reads. */
export function trackDuplicates(redis: Redis): ReadonlySet<Redis> {
  const duplicates = new Set<Redis>();
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (...args) => {
    const copy = duplicate(...args);
    duplicates.add(copy);
    copy.once('end', () => duplicates.delete(copy));
    return copy;
  };
  return duplicates;
}
