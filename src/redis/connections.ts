import { Cluster, Redis, type RedisOptions, ReplyError } from 'ioredis';
import type { Logger } from '../log.ts';
import { parseRedisUrl, type RedisAddress } from '../redis-url.ts';
import { allowWithoutInfo } from './info.ts';
import type { RedisConnection } from './pubsub.ts';
import { refusalOf } from './refusals.ts';
import type { RedisWatch } from './watch.ts';

/** How often a connection is asked whether it is alive. */
const ASK_EVERY_MS = 1_000;

/** Commands sent together at most: Redis is to start on the first while the others are made. */
const GATHER = 24;

/** Questions in a row without an answer after which a connection counts as half-open. */
const MAX_UNANSWERED = 4;

interface ConnectOptions {
  /** The URL is a node of a Redis Cluster, which knows the others. */
  cluster: boolean;
  /** Names the connection to Redis and in the log. */
  name: string;
  log: Logger;
  /** Notes what Redis refuses; without, refusals are the callers' alone to see. */
  watch?: RedisWatch;
  /** False for commands that must fail at once while Redis is unreachable. */
  enableOfflineQueue?: boolean;
  /** False where the caller subscribes again by itself. */
  autoResubscribe?: boolean;
}

/** A Redis connection that reconnects for ever and never throws from the background. */
export function connectRedis(url: string, options: ConnectOptions): RedisConnection {
  const { cluster, name, log, watch, ...overrides } = options;
  const common = {
    connectionName: `oncefleet-${name}`,
    ...(watch === undefined ? {} : { reconnectOnError: watch.refused }),
    // BullMQ insists on it for blocking connections; elsewhere callers set their own limits.
    maxRetriesPerRequest: null,
  };
  const address = parseRedisUrl(url);
  const redis = cluster
    ? connectCluster(address, common, overrides)
    : new Redis({ ...address.options, ...common, retryStrategy, ...overrides });
  watch?.add(redis);
  allowWithoutInfo(redis);
  logOutages(redis, name, log);
  // The connections of a Cluster are ioredis's own to keep.
  if (redis instanceof Redis) {
    endHalfOpen(redis, name, log, watch);
    gatherWrites(redis);
  }
  return redis;
}

/** One line per outage, not one per attempt. */
function logOutages(redis: RedisConnection, connection: string, log: Logger): void {
  let reported = false;
  let attempts = 0;
  const report = (err?: Error) => {
    if (reported) return;
    reported = true;
    // Of a Cluster: what the last of its nodes said.
    const { lastNodeError } = (err ?? {}) as { lastNodeError?: Error };
    const remedy = (refusalOf(err) ?? refusalOf(lastNodeError))?.remedy;
    const what = remedy === undefined ? 'Redis is not reachable' : 'Redis refuses the connection';
    log.warn({ err, connection }, `${what}; trying again.${remedy === undefined ? '' : ` ${remedy}`}`);
  };
  redis.on('error', report);
  // A server that has too many clients closes the connection before ioredis makes an error of what it says.
  redis.on('reconnecting', () => {
    if (++attempts > 1) report();
  });
  redis.on('ready', () => {
    if (reported) log.info({ connection }, 'Redis is back');
    reported = false;
    attempts = 0;
  });
}

/**
 * What BullMQ puts before the keys of a queue. On a Cluster all keys of one queue must be in
 * one slot, which the braces see to; queues spread over the nodes.
 */
export function queuePrefix(prefix: string, queue: string, cluster: boolean): string {
  return cluster ? `{${prefix}:${queue}}` : prefix;
}

function retryStrategy(times: number): number {
  return Math.min(50 * 2 ** Math.min(times, 6), 1_000);
}

function connectCluster(
  { server, node }: RedisAddress,
  common: Pick<RedisOptions, 'connectionName' | 'maxRetriesPerRequest' | 'reconnectOnError'>,
  overrides: { enableOfflineQueue?: boolean; autoResubscribe?: boolean },
): Cluster {
  return new Cluster(server === undefined ? [] : [server], {
    clusterRetryStrategy: retryStrategy,
    // A channel's messages stay on the node that has its slot.
    shardedSubscribers: overrides.autoResubscribe === false,
    ...(overrides.enableOfflineQueue === undefined ? {} : { enableOfflineQueue: overrides.enableOfflineQueue }),
    // Certificates are for names, which a lookup would turn into addresses.
    ...(node.tls === undefined
      ? {}
      : { dnsLookup: (name: string, done: (err: null, address: string) => void) => done(null, name) }),
    redisOptions: { ...node, ...common },
  });
}

/**
 * Sends what is written in one turn of the event loop together. ioredis writes each command by
 * itself; when a statement ends fifty runs, BullMQ sends fifty commands in one turn. In a
 * profile at 100 jobs at once ioredis took a third less of the event loop.
 */
function gatherWrites(redis: Redis): void {
  redis.on('connect', () => {
    const { stream } = redis;
    const write = stream.write.bind(stream) as (...args: unknown[]) => boolean;
    let gathered = 0;
    const send = () => {
      gathered = 0;
      stream.uncork();
    };
    stream.write = ((...args: unknown[]) => {
      if (gathered === 0) {
        stream.cork();
        setImmediate(send);
      } else if (gathered % GATHER === 0) {
        stream.uncork();
        stream.cork();
      }
      gathered++;
      return write(...args);
    }) as typeof stream.write;
  });
}

/**
 * Ends a connection that went half-open (its other side is gone without a packet to say so), so
 * that it is made anew: TCP takes a quarter of an hour to notice, and a subscriber that never sends
 * anything does not notice at all.
 *
 * Counts unanswered questions, not time: a blocked event loop has read no answers either. An error is
 * an answer: a Redis that cannot save its data refuses every PING.
 */
function endHalfOpen(redis: Redis, name: string, log: Logger, watch: RedisWatch | undefined): void {
  let unanswered = 0;
  const answered = () => {
    unanswered = 0;
  };
  const timer = setInterval(() => {
    // Connected and still not ready: its handshake has no answer either.
    if (redis.status !== 'ready' && redis.status !== 'connect') {
      unanswered = 0;
      return;
    }
    if (unanswered === 0 && redis.status === 'ready') {
      ask(redis, watch).then(answered, (err: unknown) => {
        if (err instanceof ReplyError) answered();
      });
    }
    unanswered++;
    if (unanswered <= MAX_UNANSWERED) return;
    unanswered = 0;
    log.warn({ connection: name }, 'Redis connection ended: it does not answer');
    redis.disconnect(true);
  }, ASK_EVERY_MS);
  timer.unref();
  redis.once('end', () => clearInterval(timer));
}

/**
 * HELLO without arguments changes nothing and tells whether this is a primary: a process that only
 * publishes or listens would not be told that it talks to a replica.
 */
async function ask(redis: Redis, watch: RedisWatch | undefined): Promise<void> {
  if (watch === undefined || redis.mode === 'subscriber') {
    await redis.ping();
    return;
  }
  const hello = (await redis.call('HELLO')) as unknown[];
  const role = hello[hello.indexOf('role') + 1];
  if (role === 'replica' || role === 'slave') watch.demoted();
}

/** Ends a connection without waiting for an unreachable Redis. */
export async function closeRedis(redis: RedisConnection): Promise<void> {
  if (redis.status === 'ready') await redis.quit().catch(() => redis.disconnect());
  else redis.disconnect();
}

/** Every connection duplicated from this one from now on, as BullMQ does for its blocking reads. */
export function trackDuplicates(redis: RedisConnection, watch?: RedisWatch): ReadonlySet<RedisConnection> {
  const duplicates = new Set<RedisConnection>();
  const duplicate = redis.duplicate.bind(redis) as (...args: unknown[]) => RedisConnection;
  redis.duplicate = ((...args: unknown[]) => {
    const copy = duplicate(...args);
    watch?.add(copy);
    allowWithoutInfo(copy);
    duplicates.add(copy);
    // BullMQ ends its blocking connection when a read takes too long, and opens it again.
    copy.on('connect', () => duplicates.add(copy));
    copy.on('end', () => duplicates.delete(copy));
    return copy;
  }) as typeof redis.duplicate;
  return duplicates;
}
