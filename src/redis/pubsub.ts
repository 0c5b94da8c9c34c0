/**
 * Plain pub/sub on one Redis, sharded pub/sub on a Cluster; this is the one place that knows the
 * difference. A sharded channel lives on the node that has its slot, so that publishing costs one
 * node, not all of them.
 */
import type { EventEmitter } from 'node:events';
import { Cluster, type Redis } from 'ioredis';

/** A connection to a Redis, or to every node of a Redis Cluster. */
export type RedisConnection = Redis | Cluster;

/** A sharded command or script takes channels of one slot only. */
export function isSharded(redis: RedisConnection): redis is Cluster {
  return redis instanceof Cluster;
}

/** Async, because ioredis throws synchronously for a slot that no node has. */
export async function publish(redis: RedisConnection, channel: string, message: string): Promise<void> {
  await (isSharded(redis) ? redis.spublish(channel, message) : redis.publish(channel, message));
}

/**
 * On a Cluster the channels must share a slot.
 *
 * Async for the same reason as `publish`.
 */
export async function subscribe(redis: RedisConnection, ...channels: string[]): Promise<void> {
  await (isSharded(redis) ? redis.ssubscribe(...channels) : redis.subscribe(...channels));
}

export async function unsubscribe(redis: RedisConnection, ...channels: string[]): Promise<void> {
  await (isSharded(redis)
    ? Promise.all(channels.map((channel) => redis.sunsubscribe(channel)))
    : redis.unsubscribe(...channels));
}

export function onMessage(redis: RedisConnection, listener: (channel: string, message: string) => void): void {
  const events: EventEmitter = redis;
  events.on(isSharded(redis) ? 'smessage' : 'message', listener);
}

/** Calls `listener` each time that subscriptions can be made: a Cluster is ready before its subscribers are, or after. */
export function onSubscribable(redis: RedisConnection, listener: () => void): void {
  const events: EventEmitter = redis;
  events.on(isSharded(redis) ? 'subscribersReady' : 'ready', listener);
}
