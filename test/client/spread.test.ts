/** What the library returns can be spread, copied and taken apart: no method needs its object. */
import { inspect } from 'node:util';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import {
  createFolder,
  defineJob,
  type Fleet,
  type JobHandle,
  startMaintenance,
  withIdempotency,
} from '../../src/index.ts';
import { createTestFleet as createPublicTestFleet } from '../../src/testing/index.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

const echo = defineJob({ name: 'echo', input: z.object({ n: z.number() }), run: async ({ n }) => n });

// biome-ignore lint/suspicious/noExplicitAny: whatever a method takes.
type AnyFunction = (...args: any[]) => any;
type MethodOf<T> = { [K in keyof T]: T[K] extends AnyFunction ? K : never }[keyof T] & string;
/** How each method of an object is called; a method without a call does not compile, and fails the test. */
type Calls<T> = { [K in MethodOf<T>]: (method: T[K]) => Promise<unknown> };

/** Ways to come by a method. */
const COPIES: [string, <T extends object>(whole: T) => T][] = [
  ['taken out of it', (whole) => whole],
  ['of a spread', (whole) => ({ ...whole })],
  ['of an assigned copy', (whole) => Object.assign({}, whole)],
];

function methodsOf(whole: object): string[] {
  return Object.keys(whole).filter((name) => typeof (whole as Record<string, unknown>)[name] === 'function');
}

async function callEach<T extends object>(whole: T, calls: Calls<T>): Promise<void> {
  expect(methodsOf(whole).toSorted()).toEqual(Object.keys(calls).toSorted());
  for (const [name, call] of Object.entries(calls) as [MethodOf<T>, (method: unknown) => Promise<unknown>][]) {
    const { [name]: method } = whole;
    await call(method).catch((cause: unknown) => {
      throw new Error(`${name} needs its object`, { cause });
    });
  }
}

/** Every method of a fleet with one job that has ended, one that waits, and one that failed. */
function callsOf(ids: { waiting: string; ended: string; failed: string }): Calls<Fleet> {
  const { waiting, ended, failed } = ids;
  return {
    enqueue: (enqueue) => enqueue(echo, { n: 1 }),
    enqueueMany: (enqueueMany) => enqueueMany(echo, [{ input: { n: 1 } }]),
    cancelMany: async (cancelMany) => expect(await cancelMany({ name: 'none' })).toMatchObject({ matched: 0 }),
    get: async (get) => expect(await get(ended)).toMatchObject({ id: ended }),
    find: async (find) => expect((await find()).jobs.length).toBeGreaterThan(1),
    cancel: async (cancel) => expect((await cancel(waiting)).outcome).not.toBe('requested'),
    redrive: (redrive) => expect(redrive(failed)).rejects.toThrow('only failed jobs can be redriven'),
    redriveMany: async (redriveMany) => expect(await redriveMany({ name: 'none' })).toMatchObject({ matched: 0 }),
    follow: async (follow) => expect(await Array.fromAsync(follow(ended))).toHaveLength(1),
    followBatches: async (followBatches) => {
      for await (const batch of followBatches(ended)) batch.skip(Number.POSITIVE_INFINITY);
    },
    readEvents: async (readEvents) => expect((await readEvents(ended)).finished).toBe(true),
    result: (result) => expect(result(ended)).rejects.toThrow('cancelled'),
    pauseQueue: (pauseQueue) => pauseQueue('echo'),
    resumeQueue: (resumeQueue) => resumeQueue('echo'),
    observe: async (observe) => observe(() => undefined)(),
    health: async (health) => expect(await health()).toEqual({ postgres: undefined, redis: undefined }),
    work: async (work) => (await work()).close(),
    sweep: (sweep) => sweep(),
    tenantLimits: (tenantLimits) => tenantLimits(),
    setTenantLimits: (setTenantLimits) => setTenantLimits('acme', { weight: null }),
    retentionPolicies: (retentionPolicies) => retentionPolicies(),
    setRetention: (setRetention) => setRetention('acme', { jobMs: null }),
    doctor: (doctor) => doctor({ lookAgainMs: 0 }),
    close: (close) => close(),
  };
}

async function jobsFor(fleet: Fleet): Promise<Parameters<typeof callsOf>[0]> {
  const enqueue = () => fleet.enqueue(echo, { n: 1 }, { delayMs: 3_600_000 });
  const [waiting, ended] = [await enqueue(), await enqueue()];
  await ended.cancel();
  return { waiting: waiting.id, ended: ended.id, failed: ended.id };
}

describe.each(COPIES)('a method %s', (_, copy) => {
  it('of a fleet works', async () => {
    const fleet = createTestFleet(file.url, [echo]);
    const copied = copy(fleet);
    expect(copied.queues.map(({ name }) => name)).toEqual(['echo']);
    expect(copied.jobs.get('echo')).toBe(echo);
    await callEach(copied, callsOf(await jobsFor(fleet)));
  });

  it('of a job’s handle works', async () => {
    const fleet = createTestFleet(file.url, [echo]);
    const handle = copy(await fleet.enqueue(echo, { n: 2 }, { delayMs: 3_600_000 }));
    await callEach<JobHandle<number>>(handle, {
      cancel: async (cancel) => expect(await cancel()).toEqual({ status: 'cancelled', outcome: 'cancelled' }),
      result: (result) => expect(result()).rejects.toThrow('cancelled'),
      events: async (events) => expect(await Array.fromAsync(events())).toHaveLength(1),
    });
  });

  it('of a worker works', async () => {
    const fleet = createTestFleet(file.url, [echo]);
    await callEach(copy(await fleet.work()), {
      interrupt: async (interrupt) => interrupt(),
      close: (close) => close({ timeoutMs: 0 }),
    });
  });

  it('of an operator works', async () => {
    const fleet = createTestFleet(file.url, [echo]);
    const operator = copy(fleet.operator);
    const queue = fleet.queues[0] as Queue;
    const handle = await fleet.enqueue(echo, { n: 3 }, { delayMs: 3_600_000 });
    const { id } = handle;
    const refused = 'ACTION_REFUSED';
    await callEach(operator, {
      otherQueues: async (otherQueues) => expect(await otherQueues()).toEqual([]),
      prefixOf: async (prefixOf) => expect(prefixOf('echo')).toBe(queue.opts.prefix),
      findJob: async (findJob) => expect((await findJob(queue, id))?.id).toBe(id),
      pause: (pause) => pause(queue, 'test'),
      resume: (resume) => resume(queue),
      requireName: async (requireName) => requireName(queue, 'echo'),
      reschedule: (reschedule) => reschedule(queue, id, 7_200_000),
      reprioritise: (reprioritise) => reprioritise(queue, id, 2),
      retry: (retry) => expect(retry(queue, id, 'failed')).rejects.toMatchObject({ code: refused }),
      retryAll: async (retryAll) => expect(await retryAll(queue)).toEqual({ retried: 0, refused: 0, why: [] }),
      updateData: (updateData) => expect(updateData(queue, id, {})).rejects.toMatchObject({ code: refused }),
      removeUnprocessedChildren: (remove) => remove(queue, id),
      promote: (promote) => promote(queue, id),
      promoteAll: (promoteAll) => promoteAll(queue),
      remove: (remove) => remove(queue, id),
      add: async (add) => expect((await add(queue, { name: 'echo', data: { n: 4 }, options: {} })).job).toBeDefined(),
      removeAll: (removeAll) => removeAll(queue, ['wait']),
      obliterate: (obliterate) => obliterate(queue, { force: false }),
    });
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'cancelled' });
  });

  it('of a guarded processor works', async () => {
    const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() };
    const guarded = withIdempotency(async () => 'done', options);
    // A function: what can be copied of it are its methods.
    const methods = { interrupt: guarded.interrupt, observe: guarded.observe, close: guarded.close };
    await callEach(copy(methods), {
      interrupt: async (interrupt) => interrupt(),
      observe: async (observe) => observe(() => undefined)(),
      close: (close) => close(),
    });
  });

  it('of maintenance works', async () => {
    const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() };
    await callEach(copy(startMaintenance({ ...options, sweepMs: 0 })), {
      sweep: (sweep) => sweep(),
      observe: async (observe) => observe(() => undefined)(),
      close: (close) => close(),
    });
  });

  it('of a folder works', async () => {
    await callEach(copy(createFolder()), {
      add: async (add) =>
        expect(add({ seq: 0, event: { type: 'delta', text: 'a' } as never })).toMatchObject({ text: 'a' }),
    });
  });
});

describe('a copy of a fleet', () => {
  const charge = async (fleet: Fleet) => {
    const prefix = uniquePrefix();
    const guarded = withIdempotency(async () => 'charged', { fleet });
    onTestFinished(() => guarded.close());
    const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
    const queue = new Queue('charges', { connection: redis, prefix });
    onTestFinished(async () => {
      await queue.close();
      redis.disconnect();
    });
    return guarded(await queue.add('charge', {}, { jobId: 'one' }));
  };

  it.each(COPIES)('%s lends its connections to a guarded processor', async (_, copy) => {
    expect(await charge(copy(createTestFleet(file.url, [echo])))).toBe('charged');
  });

  it('with methods of the caller’s beside it lends them too', async () => {
    const fleet = createTestFleet(file.url, [echo]);
    expect(await charge({ ...fleet, enqueue: (() => Promise.reject(new Error('not here'))) as never })).toBe('charged');
  });

  it('shows no settings when it is printed, which have a password in them', () => {
    const url = new URL(file.url);
    url.password = 'hunter2';
    const { db: _pool, ...shown } = createTestFleet(url.href, [echo]);
    expect(inspect(shown, { depth: 4, showHidden: true })).not.toContain('hunter2');
  });
});

it('a fleet for tests can be spread, and lends its connections', async () => {
  const fleet = await createPublicTestFleet({
    databaseUrl: file.url,
    redisUrl: testRedisUrl(),
    jobs: [echo],
  });
  onTestFinished(() => fleet.close());
  const { enqueue, work, close } = { ...fleet };
  const worker = await work();
  expect(await (await enqueue(echo, { n: 5 })).result()).toBe(5);
  await worker.close();
  const guarded = withIdempotency(async () => 'done', { fleet });
  await guarded.close();
  await close();
});
