/** What somebody else put into BullMQ's keys: one bad job never stops the others. */
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

const echo = defineJob({ name: 'echo', input: z.number(), run: async (n) => n });

const HASH = { name: 'echo', data: '{}', opts: '{}', timestamp: '1', delay: '0', priority: '0', attemptsMade: '0' };

/** A job by hand, as BullMQ would have it but for what is odd about it. */
const hash = (fields: Record<string, string | undefined>) => async (redis: Redis, queue: string) => {
  const entries = Object.entries({ ...HASH, ...fields }).filter((entry) => entry[1] !== undefined);
  if (entries.length > 0) await redis.hset(`${queue}:bad`, Object.fromEntries(entries) as Record<string, string>);
  await redis.rpush(`${queue}:wait`, 'bad');
};

const table: readonly { title: string; put(redis: Redis, queue: string): Promise<unknown> }[] = [
  { title: 'an id without a hash', put: (redis, queue) => redis.rpush(`${queue}:wait`, 'bad') },
  { title: 'an empty id', put: (redis, queue) => redis.rpush(`${queue}:wait`, '') },
  {
    title: 'a hash with one unknown field',
    put: hash({ ...Object.fromEntries(Object.keys(HASH).map((name) => [name, undefined])), surprise: '1' }),
  },
  { title: 'no name', put: hash({ name: undefined }) },
  { title: 'no data', put: hash({ data: undefined }) },
  { title: 'data that are not JSON', put: hash({ data: '{"a":' }) },
  { title: 'data that are a number', put: hash({ data: '1' }) },
  { title: 'data that are null', put: hash({ data: 'null' }) },
  { title: 'options that are not JSON', put: hash({ opts: 'no' }) },
  { title: 'options that are null', put: hash({ opts: 'null' }) },
  {
    title: 'options of other types',
    put: hash({ opts: '{"attempts":"many","backoff":[],"removeOnComplete":"x","parent":1}' }),
  },
  { title: 'a stack trace that is not JSON', put: hash({ stacktrace: 'no' }) },
  { title: 'a return value that is not JSON', put: hash({ returnvalue: 'no' }) },
  {
    title: 'numbers that are words',
    put: hash({ timestamp: 'x', delay: 'x', priority: 'x', atm: 'x', ats: 'x', stc: 'x' }),
  },
  { title: 'a parent that is nowhere', put: hash({ parentKey: 'a:b:c', parent: '{"id":"c","queueKey":"a:b"}' }) },
  { title: 'a parent that is not JSON', put: hash({ parent: 'no' }) },
  {
    title: 'a string where the hash would be',
    async put(redis, queue) {
      await redis.set(`${queue}:bad`, 'no hash');
      await redis.rpush(`${queue}:wait`, 'bad');
    },
  },
  {
    title: 'an active job that is a string',
    async put(redis, queue) {
      await redis.set(`${queue}:bad`, 'no hash');
      await redis.rpush(`${queue}:active`, 'bad');
      await redis.sadd(`${queue}:stalled`, 'bad');
    },
  },
  { title: 'an unknown key', put: (redis, queue) => redis.set(`${queue}:unknown`, '1') },
];

describe('of a queue', () => {
  it.each(table)(
    '$title: the other jobs run, the log has no flood, and what cannot be read is removed',
    async ({ put }) => {
      const redis = new Redis(testRedisUrl());
      onTestFinished(() => redis.disconnect());
      const prefix = uniquePrefix();
      const lines: { msg: string }[] = [];
      const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
      const fleet = createTestFleet(file.url, [echo], { prefix, log, concurrency: 1 });
      await put(redis, `${prefix}:echo`);
      await fleet.work();
      for (const n of [1, 2, 3]) expect(await (await fleet.enqueue(echo, n)).result({ timeoutMs: 20_000 })).toBe(n);
      await expect.poll(() => redis.lrange(`${prefix}:echo:active`, 0, -1)).toEqual([]);
      expect(lines.length).toBeLessThan(5);
    },
  );

  it.each([
    { field: 'data', text: '{"oncefleet":', listed: true },
    { field: 'opts', text: 'no', listed: true },
    { field: 'data', text: '{"oncefleet":', listed: false },
  ])('in a job of the fleet ($field, listed: $listed): it is added again from its row, and runs', async (odd) => {
    const redis = new Redis(testRedisUrl());
    onTestFinished(() => redis.disconnect());
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [echo], { prefix });
    const handle = await fleet.enqueue(echo, 7);
    await expect.poll(() => redis.exists(`${prefix}:echo:${handle.id}`)).toBe(1);
    await redis.hset(`${prefix}:echo:${handle.id}`, odd.field, odd.text);
    if (!odd.listed) await redis.lrem(`${prefix}:echo:wait`, 1, handle.id);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 20_000 })).toBe(7);
  });
});
