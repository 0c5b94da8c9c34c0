/** Waiting for the outcome of a job that somebody else runs. */
import { Redis } from 'ioredis';
import pg from 'pg';
import { afterEach, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { findRoundAge } from '../../src/db/reconcile.ts';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAITERS = 1_000;

afterEach(() => {
  vi.restoreAllMocks();
});

/** Every statement of this process on connections that it opens from now on. */
function recordStatements(): string[] {
  const texts: string[] = [];
  const query = pg.Client.prototype.query as (...args: unknown[]) => unknown;
  vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...args: unknown[]) {
    const [first] = args as [string | { text: string }];
    texts.push(typeof first === 'string' ? first : first.text);
    return query.apply(this, args) as never;
  });
  return texts;
}

it('a thousand enqueues of one key and a thousand waits share one run, one subscription, few statements and no worker slot', async () => {
  const statements = recordStatements();
  const held = Promise.withResolvers<void>();
  let runs = 0;
  const job = defineJob({
    name: 'waited-for',
    input: z.object({}),
    async run() {
      runs++;
      await held.promise;
      return { run: runs };
    },
  });
  const other = defineJob({ name: 'other', queue: 'waited-for', input: z.object({}), run: async () => 'ran' });
  const prefix = uniquePrefix();
  // Nothing but what this process waits with asks Postgres: no reconciler, no sweep, no renewal.
  const quiet = { prefix, reconcileMs: 3_600_000, sweepMs: 0, leaseTtlMs: 600_000, heartbeatMs: 200_000 };
  const fleet = createTestFleet(file.url, [job, other], { ...quiet, concurrency: 2 });
  await fleet.work();
  await fleet.enqueue(job, {}, { key: 'k' });
  await expect.poll(() => runs, { timeout: 10_000 }).toBe(1);
  // The one round that a worker begins with, however long it takes here, asks Postgres too.
  await expect.poll(() => findRoundAge(file.db), { timeout: 10_000 }).toBeDefined();

  statements.length = 0;
  const handles = await Promise.all(Array.from({ length: WAITERS }, () => fleet.enqueue(job, {}, { key: 'k' })));
  expect(new Set(handles.map(({ id, outcome }) => `${outcome} ${id}`)).size).toBe(1);
  expect(handles[0]?.outcome).toBe('attached');
  // Batches of 500 find the key taken, batches of 1,000 look who has it.
  expect(statements.length).toBeLessThan(20);

  statements.length = 0;
  const waitingSince = performance.now();
  const results = Promise.all(handles.map((handle) => handle.result({ timeoutMs: 60_000 })));
  // Told where it is awaited.
  results.catch(() => undefined);
  const looks = () => statements.filter((text) => text.includes('finished_at')).length;
  // One at the beginning, up to two more while it subscribes, and then those at intervals.
  await expect.poll(looks, { timeout: 20_000 }).toBeGreaterThanOrEqual(5);
  const waitedMs = performance.now() - waitingSince;
  // One every two seconds, however many wait; nothing else is asked.
  expect(waitedMs).toBeGreaterThan(3_500);
  // Beside them the worker asks whether a schedule is due.
  const asked = statements.filter((text) => !text.includes('.schedules'));
  expect(asked.length).toBeLessThanOrEqual(4 + Math.ceil(waitedMs / 2_000));

  const redis = new Redis(testRedisUrl());
  onTestFinished(() => redis.disconnect());
  const channels = (await redis.pubsub('CHANNELS', `${prefix}*${handles[0]?.id}*`)) as string[];
  expect(channels).toHaveLength(1);
  expect(await redis.pubsub('NUMSUB', ...channels)).toEqual([channels[0], 1]);

  // One of two slots is taken, by the run.
  expect(await (await fleet.enqueue(other, {})).result({ timeoutMs: 10_000 })).toBe('ran');
  held.resolve();
  expect(new Set((await results).map((result) => JSON.stringify(result)))).toEqual(new Set(['{"run":1}']));
  expect(runs).toBe(1);
});
