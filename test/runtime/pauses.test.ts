/** Pauses of queues live in Postgres: Redis may lose them, and other BullMQ clients may pause and resume. */
import { Queue } from 'bullmq';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { type PrivateRedis, startTestRedis, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };
const job = defineJob({ name: 'job', queue: 'work', input: z.object({}), run: async () => 1 });
const own: { redis: PrivateRedis; stop(): Promise<void> } = { redis: undefined as never, stop: async () => undefined };

beforeAll(async () => {
  Object.assign(own, await startTestRedis());
});
afterAll(() => own.stop());
beforeEach(() =>
  sql`truncate oncefleet.paused_queues, oncefleet.reconciler_rounds, oncefleet.jobs, oncefleet.unfinished_jobs`
    .execute(file.db)
    .then(() => undefined),
);

interface Place {
  fleet: Fleet;
  queue: Queue;
  runtime: Runtime;
  reconcile(): Promise<void>;
}

/** A fleet without a worker, and a reconciler whose rounds the test calls. */
async function createPlace(): Promise<Place> {
  const prefix = uniquePrefix();
  const options = { databaseUrl: file.url, redisUrl: own.redis.url, prefix };
  const fleet = createTestFleet(file.url, [job], { ...options, reconcileMs: 600_000 });
  const runtime = new Runtime(options);
  onTestFinished(() => runtime.close());
  const queue = runtime.dispatcher.queue('work');
  await queue.waitUntilReady();
  await expect.poll(() => runtime.redis.status, WAIT).toBe('ready');
  const reconciler = new Reconciler({ runtime, jobs: fleet.jobs, intervalMs: 600_000 });
  return {
    fleet,
    queue,
    runtime,
    async reconcile() {
      await reconciler.reconcile();
    },
  };
}

const pauses = () =>
  file.db.selectFrom('paused_queues').select(['prefix', 'queue', 'paused_by']).orderBy('queue').execute();

describe('a pause', () => {
  it.each([
    ['a FLUSHALL', async ({ runtime }: Place) => runtime.redis.flushall()],
    ['an obliterate by another client', async ({ queue }: Place) => queue.obliterate({ force: true })],
    ['an evicted key', async ({ queue, runtime }: Place) => runtime.redis.del(queue.toKey('meta'))],
    [
      'a restart of Redis',
      async ({ runtime }: Place) => {
        await runtime.redis.config('SET', 'save', '');
        await own.redis.stop();
        await own.redis.start();
        await expect.poll(() => runtime.redis.status, WAIT).toBe('ready');
        expect(await runtime.redis.dbsize()).toBe(0);
      },
    ],
  ])('is back after %s, before anything is dispatched', async (_, lose) => {
    const place = await createPlace();
    await place.fleet.pauseQueue('work', { by: 'deploy' });
    const { id } = await place.fleet.enqueue('job', {});
    await lose(place);
    expect(await place.queue.isPaused()).toBe(false);
    await place.reconcile();
    expect(await place.queue.isPaused()).toBe(true);
    expect(await pauses()).toEqual([{ prefix: place.runtime.settings.prefix, queue: 'work', paused_by: 'deploy' }]);
    const worker = await place.fleet.work();
    await place.fleet.resumeQueue('work');
    await place.reconcile();
    expect(await place.fleet.result(id, { timeoutMs: 20_000 })).toBe(1);
    await worker.close();
    expect(await pauses()).toEqual([]);
  });

  it('is obeyed by a worker that starts after Redis has lost it', async () => {
    const place = await createPlace();
    await place.fleet.pauseQueue('work');
    await place.runtime.redis.flushall();
    const worker = await place.fleet.work();
    expect(await place.queue.isPaused()).toBe(true);
    const { id } = await place.fleet.enqueue('job', {});
    await expect.poll(() => place.queue.getJobState(id), WAIT).toBe('waiting');
    await place.fleet.resumeQueue('work');
    expect(await place.fleet.result(id, { timeoutMs: 20_000 })).toBe(1);
    await worker.close();
  });

  it('by another client is noted, and comes back after a flush as any other', async () => {
    const place = await createPlace();
    await place.queue.pause();
    await place.reconcile();
    expect(await place.queue.isPaused()).toBe(true);
    expect(await pauses()).toMatchObject([{ queue: 'work', paused_by: 'bullmq' }]);
    await place.runtime.redis.flushall();
    await place.reconcile();
    expect(await place.queue.isPaused()).toBe(true);
  });

  it('is over when another client resumes the queue, also after a flush', async () => {
    const place = await createPlace();
    await place.fleet.pauseQueue('work');
    await place.queue.resume();
    await place.reconcile();
    expect([await place.queue.isPaused(), await pauses()]).toEqual([false, []]);
    await place.runtime.redis.flushall();
    await place.reconcile();
    expect(await place.queue.isPaused()).toBe(false);
  });

  it('may be paused and resumed any number of times', async () => {
    const place = await createPlace();
    for (let n = 0; n < 2; n++) {
      await Promise.all([place.fleet.pauseQueue('work'), place.fleet.pauseQueue('work')]);
      expect([await place.queue.isPaused(), (await pauses()).length]).toEqual([true, 1]);
      await Promise.all([place.fleet.resumeQueue('work'), place.fleet.resumeQueue('work')]);
      expect([await place.queue.isPaused(), await pauses()]).toEqual([false, []]);
    }
    await place.queue.pause();
    await place.fleet.resumeQueue('work');
    await place.reconcile();
    expect([await place.queue.isPaused(), await pauses()]).toEqual([false, []]);
  });

  it('is what was asked for last, whatever rounds of the reconciler run beside it', async () => {
    const place = await createPlace();
    let stop = false;
    const rounds = (async () => {
      while (!stop) await place.runtime.pauses.align([place.queue]);
    })();
    for (let n = 0; n < 30; n++) {
      await place.fleet.pauseQueue('work');
      expect([n, await place.queue.isPaused()]).toEqual([n, true]);
      await place.fleet.resumeQueue('work');
      expect([n, await place.queue.isPaused()]).toEqual([n, false]);
    }
    stop = true;
    await rounds;
    expect(await place.runtime.pauses.align([place.queue])).toEqual([]);
    expect(await pauses()).toEqual([]);
  });

  it('whose process died halfway is undone or kept, as its row says', async () => {
    const place = await createPlace();
    const meta = place.queue.toKey('meta');
    // Resumed in Postgres; Redis was not told.
    await place.fleet.pauseQueue('work');
    await sql`delete from oncefleet.paused_queues`.execute(file.db);
    await place.reconcile();
    expect([await place.queue.isPaused(), await place.runtime.redis.hget(meta, 'oncefleet:pause')]).toEqual([
      false,
      null,
    ]);
    // Paused in Redis; the mark was not written.
    await place.fleet.pauseQueue('work');
    await place.runtime.redis.hdel(meta, 'oncefleet:pause');
    await place.reconcile();
    expect([await place.queue.isPaused(), (await pauses()).length]).toEqual([true, 1]);
    await place.queue.resume();
    await place.reconcile();
    expect([await place.queue.isPaused(), await pauses()]).toEqual([false, []]);
  });

  it('of a queue of another prefix comes back too', async () => {
    const place = await createPlace();
    const theirs = new Queue('theirs', { connection: { url: own.redis.url }, prefix: 'elsewhere' });
    onTestFinished(() => theirs.close());
    await place.fleet.operator.pause(theirs, 'test');
    await place.runtime.redis.flushall();
    await place.reconcile();
    expect(await theirs.isPaused()).toBe(true);
    await place.fleet.operator.resume(theirs);
    await place.reconcile();
    expect(await theirs.isPaused()).toBe(false);
  });

  it('of a queue that no job has is refused', async () => {
    const { fleet } = await createPlace();
    await expect(fleet.pauseQueue('nowhere')).rejects.toMatchObject({ code: 'INPUT_INVALID' });
    await expect(fleet.resumeQueue('nowhere')).rejects.toMatchObject({ code: 'INPUT_INVALID' });
    await expect(fleet.pauseQueue('work', { by: 7 as never })).rejects.toMatchObject({ code: 'INPUT_INVALID' });
  });
});
