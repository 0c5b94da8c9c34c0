import { Redis } from 'ioredis';
import type { Logger } from '../log.ts';

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
  return redis;
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
