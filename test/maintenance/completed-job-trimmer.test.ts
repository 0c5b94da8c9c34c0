import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { expect, it, onTestFinished } from 'vitest';
import type { DispatchRow } from '../../src/db/jobs/unfinished.ts';
import { toJobData } from '../../src/enqueue/job-data.ts';
import { silentLogger } from '../../src/log.ts';
import { FinishedJobs } from '../../src/maintenance/completed-job-trimmer.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const DAY_MS = 86_400_000;

async function stage() {
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const prefix = uniquePrefix();
  const queue = new Queue('q', { connection: redis, prefix });
  const worker = new Worker('q', async () => undefined, { connection: redis, prefix, concurrency: 100 });
  const finished = new FinishedJobs({ redis, workers: [worker], log: silentLogger() });
  onTestFinished(async () => {
    finished.close();
    await worker.close();
    await queue.close();
    redis.disconnect();
  });
  await worker.waitUntilReady();
  /** As if so many had completed, each so long ago. */
  const complete = async (ids: readonly string[], agoMs = 0, { data = '{}', hanging = ['logs'] } = {}) => {
    const pipeline = redis.pipeline();
    for (const id of ids) {
      pipeline.hset(queue.toKey(id), 'name', 'job', 'data', data, 'opts', '{}');
      for (const part of hanging) pipeline.rpush(queue.toKey(`${id}:${part}`), 'a line');
      pipeline.zadd(queue.toKey('completed'), Date.now() - agoMs, id);
    }
    await pipeline.exec();
  };
  const left = async () => {
    const keys = await redis.keys(`${prefix}:q:old-*`);
    return keys.map((key) => key.slice(`${prefix}:q:`.length)).sort();
  };
  return { redis, queue, finished, complete, left };
}

const ids = (count: number) => Array.from({ length: count }, (_, i) => `old-${String(i).padStart(5, '0')}`);

it('are removed as they become too many, the oldest first, with all that hangs on them', async () => {
  const { queue, complete, left } = await stage();
  await complete(ids(4_500), 60_000);
  await queue.addBulk(Array.from({ length: 1_000 }, () => ({ name: 'job', data: {} })));
  await expect.poll(() => queue.getCompletedCount(), { timeout: 15_000 }).toBe(5_000);
  expect(await left()).toEqual(
    ids(4_500)
      .slice(500)
      .flatMap((id) => [id, `${id}:logs`]),
  );
});

it('are removed when they are old, however few', async () => {
  const { finished, complete, left, queue } = await stage();
  await complete(['old-a'], DAY_MS + 1_000);
  await complete(['old-b'], DAY_MS - 60_000);
  await finished.trim();
  expect(await left()).toEqual(['old-b', 'old-b:logs']);
  expect(await queue.getCompletedCount()).toBe(1);
});

it('leave nothing behind, be they our own or parents of a flow that another client added', async () => {
  const { finished, complete, left } = await stage();
  const ours = JSON.stringify(toJobData({ tenant: 'default', key: 'k', id: '', name: '', queue: '' } as DispatchRow));
  await complete(['old-ours'], DAY_MS + 1_000, { data: ours });
  await complete(['old-flow'], DAY_MS + 1_000, {
    hanging: ['logs', 'dependencies', 'processed', 'failed', 'unsuccessful'],
  });
  expect(await left()).toHaveLength(8);
  await finished.trim();
  expect(await left()).toEqual([]);
});
