/**
 * INFO for a user that may not run it (`-@dangerous` forbids it, and so do some hosts). BullMQ asks for it on
 * each connection and does nothing at all without; all that it reads is the version, which HELLO tells too.
 */
import { randomUUID } from 'node:crypto';
import { Cluster, type Redis } from 'ioredis';
import type { RedisConnection } from './pubsub.ts';
import { refusalOf } from './refusals.ts';

type Callback = (err: Error | null, info?: string) => void;

/** Answers `redis.info()` from HELLO where the user may not run INFO. Of a Cluster also those of its nodes. */
export function allowWithoutInfo(redis: RedisConnection): void {
  if (redis instanceof Cluster) redis.on('+node', (node: Redis) => allowWithoutInfo(node));
  const info = redis.info.bind(redis) as (...args: string[]) => Promise<string>;
  // Nothing but INFO tells one start of a server from the next: each connection might lead to another.
  let run = randomUUID();
  redis.on('close', () => {
    run = randomUUID();
  });
  redis.info = (async (...args: (string | Callback)[]) => {
    const callback = args.at(-1);
    const sections = args.filter((arg) => typeof arg === 'string');
    const answer = info(...sections).catch(async (err: unknown) => {
      if (refusalOf(err)?.kind !== 'DENIED') throw err;
      return fromHello(redis, run);
    });
    // ioredis's own check that a connection is ready has a callback.
    if (typeof callback === 'function')
      answer.then(
        (text) => callback(null, text),
        (err: Error) => callback(err),
      );
    return answer;
  }) as typeof redis.info;
}

async function fromHello(redis: RedisConnection, run: string): Promise<string> {
  const hello = (await redis.call('HELLO')) as unknown[];
  const version = String(hello[hello.indexOf('version') + 1]);
  return `redis_version:${version}\r\nrun_id:${run.replaceAll('-', '')}\r\n`;
}
