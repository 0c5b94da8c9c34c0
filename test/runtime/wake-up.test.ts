/** What comes at once over Redis where it would come late without: leases last a minute here. */
import { Queue, QueueEvents } from 'bullmq';
import { Redis } from 'ioredis';
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { CancelledError, defineJob } from '../../src/index.ts';
import { streamChannel } from '../../src/journal/channel.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const LONG = { leaseTtlMs: 60_000, heartbeatMs: 20_000 };

function openRedis(): Redis {
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  onTestFinished(() => redis.disconnect());
  return redis;
}

function openQueue(name: string, prefix: string): Queue {
  const queue = new Queue(name, { connection: openRedis(), prefix });
  onTestFinished(() => queue.close());
  return queue;
}

/** Waits until somebody listens to a channel. */
async function heard(channel: string): Promise<void> {
  const redis = openRedis();
  await expect.poll(async () => (await redis.pubsub('NUMSUB', channel))[1]).toBe(1);
}

it('a cancel through the live bus reaches the run long before the next heartbeat', async () => {
  const prefix = uniquePrefix();
  const running = Promise.withResolvers<void>();
  let reason: unknown;
  const job = defineJob({
    name: 'cancel-live',
    input: z.object({}),
    async run(_input, ctx) {
      running.resolve();
      await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
      reason = ctx.signal.reason;
    },
  });
  const fleet = createTestFleet(file.url, [job], { prefix, ...LONG });
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  await running.promise;
  await heard(`${prefix}:control`);
  expect(await handle.cancel()).toEqual({ status: 'running', outcome: 'requested' });
  await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(reason).toBeInstanceOf(CancelledError);
});

it('a deferred delivery is woken when the run ends, long before the lease would', async () => {
  const prefix = uniquePrefix();
  const running = Promise.withResolvers<string>();
  const go = Promise.withResolvers<void>();
  let runs = 0;
  const job = defineJob({
    name: 'woken',
    input: z.object({}),
    async run(_input, ctx) {
      runs++;
      running.resolve(ctx.jobId);
      await go.promise;
      return 'once';
    },
  });
  await createTestFleet(file.url, [job], { prefix, ...LONG }).work();
  const queue = openQueue('woken', prefix);
  const events = new QueueEvents('woken', { connection: { url: testRedisUrl() }, prefix });
  onTestFinished(() => events.close());
  await events.waitUntilReady();
  const first = await queue.add('woken', { idempotencyKey: 'k' });
  const id = await running.promise;
  const second = await queue.add('woken', { idempotencyKey: 'k' });
  const results = [first, second].map((bull) => bull.waitUntilFinished(events, 10_000));
  await expect.poll(() => queue.getDelayedCount()).toBe(1);
  await heard(streamChannel(prefix, id));
  go.resolve();
  expect(await Promise.all(results)).toEqual(['once', 'once']);
  expect(runs).toBe(1);
});

it('a delivery that finds Postgres away is deferred, also when it carries its input', async () => {
  const prefix = uniquePrefix();
  let runs = 0;
  const job = defineJob({ name: 'no-postgres', input: z.object({ n: z.number() }), run: async () => ++runs });
  const fleet = createTestFleet('postgres://nobody@127.0.0.1:1/none', [job], { prefix });
  await fleet.work();
  const queue = openQueue('no-postgres', prefix);
  const bull = await queue.add('no-postgres', { n: 1 });
  await expect.poll(() => bull.getState(), { timeout: 10_000 }).toBe('delayed');
  expect(runs).toBe(0);
  expect((await queue.getJob(bull.id as string))?.attemptsMade).toBe(0);
});
