/** What Redis refuses, on servers of the test's own. */
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { FaultProxy } from '../../chaos/proxy.ts';
import { defineJob, type Fleet } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { type PrivateRedis, startTestRedis } from '../helpers/services.ts';

const file = useDatabase();

const echo = defineJob({ name: 'echo', input: z.number(), run: async (n) => n });

const result = async (fleet: Fleet, n: number) => (await fleet.enqueue(echo, n)).result({ timeoutMs: 25_000 });

async function ownRedis(): Promise<{ redis: PrivateRedis; admin: Redis }> {
  const { redis, stop } = await startTestRedis();
  const admin = new Redis(redis.url, { maxRetriesPerRequest: null });
  onTestFinished(async () => {
    admin.disconnect();
    await stop();
  });
  return { redis, admin };
}

/** A log, and its lines whose message begins so. */
function linesOf() {
  const all: { msg: string; refusal?: string }[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void all.push(JSON.parse(line)) });
  return { log, lines: (start: string) => all.filter(({ msg }) => msg.startsWith(start)) };
}

describe('a primary that is demoted while connections are open', () => {
  it('and promoted again: jobs accepted meanwhile run, and the log has a line for each change', async () => {
    const { redis, admin } = await ownRedis();
    const { log, lines } = linesOf();
    const fleet = createTestFleet(file.url, [echo], { redisUrl: redis.url, log });
    await fleet.work();
    expect(await result(fleet, 1)).toBe(1);
    await admin.replicaof('127.0.0.1', 1);
    const handle = await fleet.enqueue(echo, 2);
    await expect.poll(() => lines('Redis refuses commands')).toHaveLength(1);
    await admin.replicaof('NO', 'ONE');
    expect(await handle.result({ timeoutMs: 25_000 })).toBe(2);
    await expect.poll(() => lines('Redis takes commands again')).toHaveLength(1);
    expect(lines('Redis refuses commands')).toHaveLength(1);
  });

  it('for another behind the same address: workers, clients and followers go there', async () => {
    const [old, next] = [await ownRedis(), await ownRedis()];
    await next.admin.config('SET', 'requirepass', new URL(old.redis.url).password);
    const target = new URL(old.redis.url);
    const proxy = await FaultProxy.start({ host: '127.0.0.1', port: Number(target.port) });
    onTestFinished(() => proxy.close());
    const gate = Promise.withResolvers<void>();
    const talk = defineJob({
      name: 'talk',
      input: z.null(),
      async run(_input, ctx) {
        await gate.promise;
        await ctx.emit({ type: 'said' });
      },
    });
    target.host = `127.0.0.1:${proxy.port}`;
    const fleet = createTestFleet(file.url, [echo, talk], { redisUrl: target.href });
    await fleet.work();
    const talking = await fleet.enqueue(talk, null);
    const events = Array.fromAsync(talking.events(), ({ event }) => event.type);
    // New connections lead to the other one; those that are open stay where they are.
    proxy.leadTo({ host: '127.0.0.1', port: Number(new URL(next.redis.url).port) });
    await old.admin.replicaof('127.0.0.1', new URL(next.redis.url).port);
    expect(await result(fleet, 3)).toBe(3);
    const ours = async () => ((await next.admin.client('LIST')) as string).match(/name=oncefleet-\w+/g)?.toSorted();
    await expect.poll(ours).toEqual(['name=oncefleet-publish', 'name=oncefleet-queue', 'name=oncefleet-subscribe']);
    gate.resolve();
    expect(await events).toEqual(['said', 'end']);
  });
});
