/** Options that other BullMQ clients wrote, read as they stand in Redis: a job ends within its attempts. */
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 10 };

const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => connection.disconnect());

/** A job that always throws, added to the queue of a fleet with options as another client's JSON has them. */
async function stage(options: string) {
  const prefix = uniquePrefix();
  let runs = 0;
  const job = defineJob({
    name: 'odd',
    input: z.object({}),
    run: async () => {
      runs++;
      throw new Error('always');
    },
  });
  const fleet = createTestFleet(file.url, [job], { prefix });
  const queue = new Queue('odd', { connection, prefix });
  onTestFinished(() => queue.close());
  await queue.pause();
  const { id } = await queue.add('odd', { idempotencyKey: prefix });
  await connection.hset(`${prefix}:odd:${id}`, 'opts', options);
  await queue.resume();
  await fleet.work();
  return {
    fleet,
    runs: () => runs,
    row: () => fleet.find({ key: prefix }).then(({ jobs }) => jobs[0]),
  };
}

describe('a job of another client', () => {
  it.each<[string, string, number]>([
    ['a word', '{"attempts":"many"}', 1],
    ['less than none', '{"attempts":-1}', 1],
    ['null', '{"attempts":null,"backoff":0}', 3],
    ['an object', '{"attempts":{}}', 1],
    ['a text', '{"attempts":"2","backoff":{"type":"fixed","delay":0}}', 2],
    ['1.5', '{"attempts":1.5,"backoff":{"type":"fixed","delay":0}}', 2],
  ])('ends within its attempts: attempts of %s', async (_what, options, attempts) => {
    const s = await stage(options);
    await expect.poll(async () => (await s.row())?.status, WAIT).toBe('failed');
    expect(s.runs()).toBe(attempts);
  });

  it.each([
    '{"attempts":2,"backoff":-1000}',
    '{"attempts":2,"backoff":{"type":"fixed","delay":-1000}}',
    '{"attempts":2,"backoff":{"type":"fixed","delay":"soon"}}',
    '{"attempts":2,"backoff":{"type":"fixed","delay":0,"jitter":-1e400}}',
    '{"attempts":2,"backoff":{"type":"exponential","delay":-1e400,"jitter":1e400}}',
    '{"attempts":2,"backoff":{"type":"fixed","delay":10,"jitter":40}}',
    '{"attempts":2,"priority":"first","backoff":{"type":"fixed","delay":0}}',
    '{"attempts":2,"priority":-1e400,"keepLogs":-1,"backoff":{"type":"fixed","delay":0}}',
  ])('ends within its attempts: %s', async (options) => {
    const s = await stage(options);
    await expect.poll(async () => (await s.row())?.status, WAIT).toBe('failed');
    expect(s.runs()).toBe(2);
    expect((await s.row())?.errorCount).toBe(2);
  });

  it.each(['{"attempts":2,"backoff":{"type":"fixed","delay":1e400}}', '{"attempts":2,"backoff":1e20}'])(
    'waits no longer than five minutes, and can be read: %s',
    async (options) => {
      const s = await stage(options);
      await expect.poll(async () => (await s.row())?.errorCount, WAIT).toBe(1);
      const row = await s.row();
      expect(row?.status).toBe('pending');
      expect(Date.parse(row?.runAt as string) - Date.now()).toBeLessThan(300_001);
    },
  );
});
