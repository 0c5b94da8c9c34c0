import { randomUUID } from 'node:crypto';
import { Queue, QueueEvents, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import {
  CancelledError,
  defineJob,
  type JobFailedError,
  NonRetryableError,
  RetryAfterError,
  withIdempotency,
} from '../../src/index.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { claimFree, expireLease, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

/** A BullMQ queue as another client would open it. */
function openQueue(name: string, prefix: string): Queue {
  const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const queue = new Queue(name, { connection, prefix });
  // Each waitUntilFinished listens on it.
  queue.setMaxListeners(0);
  onTestFinished(async () => {
    await queue.close();
    connection.disconnect();
  });
  return queue;
}

describe('one key', () => {
  it('50 racing deliveries on two workers run once and all get the result', async () => {
    const prefix = uniquePrefix();
    const started = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    let runs = 0;
    const job = defineJob({
      name: 'race',
      input: z.object({ n: z.number() }),
      async run(input) {
        runs++;
        started.resolve();
        await go.promise;
        return { n: input.n };
      },
    });
    const options = { prefix, concurrency: 25, reconcileMs: 3_600_000 };
    for (let i = 0; i < 2; i++) await createTestFleet(file.url, [job], options).work();
    const queue = openQueue('race', prefix);
    const events = new QueueEvents('race', { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(() => events.close());
    await events.waitUntilReady();
    const jobs = await queue.addBulk(
      Array.from({ length: 50 }, () => ({ name: 'race', data: { n: 7, idempotencyKey: 'the key' } })),
    );
    const results = jobs.map((bull) => bull.waitUntilFinished(events, 20_000));
    await started.promise;
    // The other 49 met a held lease before the run may end. A reconciler's first round may take the
    // row, which waits for its claim, for one that was overlooked, and add a delivery of its own.
    const ids = new Set(jobs.map(({ id }) => id));
    const deferred = async () => (await queue.getDelayed()).filter(({ id }) => ids.has(id)).length;
    await expect.poll(deferred, { timeout: 10_000 }).toBe(49);
    // Each delivery but the one that runs was deferred, and counted, once.
    const others = await queue.getDelayedCount();
    go.resolve();
    expect(await Promise.all(results)).toEqual(jobs.map(() => ({ n: 7 })));
    expect(runs).toBe(1);
    for (const bull of await queue.getJobs(['completed'])) expect(bull.attemptsMade).toBe(1);
    const rows = await file.db
      .selectFrom('jobs')
      .select(['fence', 'deferral_count', 'crash_count'])
      .where('idempotency_key', '=', 'the key')
      .execute();
    expect(rows).toEqual([{ fence: 1, deferral_count: others, crash_count: 0 }]);
  });

  it('a thousand concurrent enqueues give one run and a thousand equal results', async () => {
    let runs = 0;
    const job = defineJob({ name: 'attach', input: z.object({}), run: async () => ({ run: ++runs }) });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handles = await Promise.all(Array.from({ length: 1_000 }, () => fleet.enqueue(job, {}, { key: 'k' })));
    expect(new Set(handles.map((handle) => handle.id)).size).toBe(1);
    expect(handles.filter((handle) => handle.outcome === 'created')).toHaveLength(1);
    const results = await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    expect(new Set(results.map((result) => JSON.stringify(result)))).toEqual(new Set(['{"run":1}']));
  });

  it('with another input is a mismatch; with the same input in another order it is not', async () => {
    const job = defineJob({ name: 'mismatch', input: z.looseObject({}), run: async () => null });
    const fleet = createTestFleet(file.url, [job]);
    const first = await fleet.enqueue(job, { a: 1, b: 'é', c: undefined }, { key: 'k' });
    const same = await fleet.enqueue(job, { b: 'e\u0301', a: 1.0 }, { key: 'k' });
    expect(same).toMatchObject({ id: first.id, outcome: 'attached' });
    await expect(fleet.enqueue(job, { a: 2, b: 'é' }, { key: 'k' })).rejects.toMatchObject({ code: 'KEY_MISMATCH' });
    const other = await fleet.enqueue(job, { a: 2 }, { key: 'k', tenant: 'other' });
    expect(other.outcome).toBe('created');
  });

  it('whose outcome expired starts anew, once, however many ask', async () => {
    const job = defineJob({ name: 'expire', input: z.object({}), resultTtlMs: 0, run: async () => 1 });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const first = await fleet.enqueue(job, {}, { key: 'k' });
    await first.result();
    await fleet.close();
    const idle = createTestFleet(file.url, [job]);
    const again = await Promise.all(Array.from({ length: 20 }, () => idle.enqueue(job, {}, { key: 'k' })));
    const ids = new Set(again.map((handle) => handle.id));
    expect(ids.size).toBe(1);
    expect(ids.has(first.id)).toBe(false);
    expect((await idle.get(first.id))?.status).toBe('completed');
  });

  it.each([null, undefined, false, 0, ''])('replays the result %s', async (value) => {
    let runs = 0;
    const job = defineJob({
      name: `falsy-${String(value)}-${typeof value}`.replaceAll(/[^\w-]/g, ''),
      input: z.object({}),
      run: async () => {
        runs++;
        return value;
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    expect(await (await fleet.enqueue(job, {}, { key: 'k' })).result()).toBe(value);
    const again = await fleet.enqueue(job, {}, { key: 'k' });
    expect(again.outcome).toBe('replayed');
    expect(await again.result()).toBe(value);
    expect(runs).toBe(1);
  });
});

describe('a delivery', () => {
  it('that comes before its job is due is put off until then', async () => {
    const job = defineJob({ name: 'early', input: z.object({}), run: async () => null });
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix, reconcileMs: 3_600_000 });
    await fleet.work();
    await fleet.enqueue(job, {}, { delayMs: 600_000 });
    const queue = openQueue('early', prefix);
    const delayed = async () => (await queue.getDelayed())[0];
    await expect.poll(delayed).toBeDefined();
    await (await delayed())?.promote();
    await expect.poll(async () => (await delayed())?.delay).toBeGreaterThan(500_000);
    expect((await delayed())?.delay).toBeLessThanOrEqual(600_001);
  });
});

describe('errors', () => {
  it('an UnrecoverableError of another copy of BullMQ ends the job at once', async () => {
    class UnrecoverableError extends Error {}
    const thrown = [
      Object.assign(new Error('no'), { name: 'UnrecoverableError' }),
      new (class Own extends UnrecoverableError {})('no'),
    ];
    const job = defineJob({
      name: 'hopeless',
      input: z.object({ i: z.int() }),
      attempts: 5,
      run({ i }) {
        throw thrown[i];
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    for (const i of thrown.keys()) {
      const handle = await fleet.enqueue(job, { i });
      await expect(handle.result({ timeoutMs: 10_000 })).rejects.toThrow('no');
      expect(await fleet.get(handle.id)).toMatchObject({ status: 'failed', errorCount: 1 });
    }
  });

  it('are retried with backoff until attempts, each told in the stream and the ledger', async () => {
    const job = defineJob({
      name: 'flaky',
      input: z.object({}),
      attempts: 3,
      backoff: { type: 'fixed', delayMs: 10, jitter: 0 },
      async run(_input, ctx) {
        await ctx.emit({ type: 'try', attempt: ctx.attempt });
        if (ctx.attempt < 3) throw new Error(`no ${ctx.attempt}`);
        return 'yes';
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 20_000 })).toBe('yes');
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event)).toEqual([
      { type: 'try', attempt: 1 },
      { type: 'retry', attempt: 1, delayMs: 10, error: { code: 'HANDLER_ERROR', message: 'no 1' } },
      { type: 'attempt', attempt: 2, reason: 'error', resumed: false },
      { type: 'try', attempt: 2 },
      { type: 'retry', attempt: 2, delayMs: 10, error: { code: 'HANDLER_ERROR', message: 'no 2' } },
      { type: 'attempt', attempt: 3, reason: 'error', resumed: false },
      { type: 'try', attempt: 3 },
      { type: 'end', result: 'yes' },
    ]);
    const record = await fleet.get(handle.id);
    expect(record).toMatchObject({ errorCount: 2, crashCount: 0, status: 'completed' });
    expect(record?.attempts.map((attempt) => attempt.outcome)).toEqual(['error', 'error', 'completed']);
  });

  it('fail the job at the last attempt, with a terminal event', async () => {
    const job = defineJob({
      name: 'hopeless',
      input: z.object({}),
      attempts: 2,
      backoff: { type: 'fixed', delayMs: 0 },
      run: async () => {
        throw new Error('never');
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 20_000 })).rejects.toMatchObject({
      name: 'JobFailedError',
      code: 'HANDLER_ERROR',
      message: 'never',
      status: 'failed',
    });
    expect((await journalOf(file.db, handle.id)).at(-1)?.event).toEqual({
      type: 'error',
      error: { code: 'HANDLER_ERROR', message: 'never' },
    });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ error_count: 2, status: 'failed' });
    const queue = fleet.queues.find((candidate) => candidate.name === 'hopeless') as Queue;
    await expect.poll(async () => (await queue.getJob(handle.id))?.getState()).toBe('failed');
    expect((await queue.getJob(handle.id))?.failedReason).toBe('never');
  });

  it('that are not worth retrying fail at once; one that says when to come back decides the delay', async () => {
    const hopeless = defineJob({
      name: 'non-retryable',
      input: z.object({}),
      run: async () => {
        throw new NonRetryableError('pointless');
      },
    });
    const polite = defineJob({
      name: 'polite',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 60_000 },
      run: async (_input, ctx) => {
        if (ctx.attempt === 1) throw new RetryAfterError('busy', 7);
        return 'later';
      },
    });
    const fleet = createTestFleet(file.url, [hopeless, polite]);
    await fleet.work();
    const failed = await fleet.enqueue(hopeless, {});
    await expect(failed.result({ timeoutMs: 20_000 })).rejects.toMatchObject({ code: 'NON_RETRYABLE' });
    expect(await rowOf(file.db, failed.id)).toMatchObject({ error_count: 1, status: 'failed' });
    const waited = await fleet.enqueue(polite, {});
    expect(await waited.result({ timeoutMs: 20_000 })).toBe('later');
    expect((await journalOf(file.db, waited.id))[0]?.event).toMatchObject({ type: 'retry', delayMs: 7 });
  });

  it.each([
    ['an object without a prototype', () => Object.create(null)],
    [
      'an object whose toString throws',
      () => ({
        toString: () => {
          throw new Error('no');
        },
      }),
    ],
    [
      'an error whose message cannot be read',
      () =>
        Object.defineProperty(new Error('x'), 'message', {
          get: () => {
            throw new Error('no');
          },
        }),
    ],
    ['an error whose message is an object', () => Object.assign(new Error('x'), { message: { a: 1 } })],
    [
      'a proxy that refuses everything',
      () =>
        new Proxy(
          {},
          {
            getPrototypeOf: () => {
              throw new Error('no');
            },
            get: () => {
              throw new Error('no');
            },
          },
        ),
    ],
    ['nothing', () => undefined],
    ['a symbol', () => Symbol('s')],
  ])('that are %s count as errors like any other', async (name, make) => {
    const job = defineJob({
      name: `throws-${name.replaceAll(/\W/g, '-')}`,
      input: z.object({}),
      attempts: 2,
      backoff: { type: 'fixed', delayMs: 0 },
      run: async () => {
        throw make();
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({
      code: 'HANDLER_ERROR',
      message: expect.any(String),
    });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ error_count: 2, crash_count: 0 });
  });

  it('that end a job show their own stack in BullMQ', async () => {
    const job = defineJob({
      name: 'stack',
      input: z.object({}),
      attempts: 1,
      run: async function theGuiltyOne() {
        throw new Error('with a stack');
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toThrow('with a stack');
    const queue = fleet.queues[0] as Queue;
    await expect
      .poll(async () => (await queue.getJob(handle.id))?.stacktrace?.join(), { timeout: 10_000 })
      .toContain('theGuiltyOne');
  });

  it('a timeout aborts the attempt and counts as an error', async () => {
    let reason: unknown;
    const job = defineJob({
      name: 'slow',
      input: z.object({}),
      attempts: 1,
      timeoutMs: 50,
      run: (_input, ctx) =>
        new Promise((_resolve, reject) => {
          ctx.signal.addEventListener('abort', () => {
            reason = ctx.signal.reason;
            reject(new Error('stopped'));
          });
        }),
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 20_000 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    expect(reason).toMatchObject({ code: 'TIMEOUT' });
  });

  it('an output its schema refuses fails the job', async () => {
    const job = defineJob({
      name: 'bad-output',
      input: z.object({}),
      output: z.object({ n: z.number() }),
      run: async () => ({ n: 'x' }) as never,
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    await expect((await fleet.enqueue(job, {})).result({ timeoutMs: 20_000 })).rejects.toMatchObject({
      code: 'OUTPUT_INVALID',
      message: expect.stringContaining('n:'),
    });
  });
});

describe('cancel', () => {
  it('of a waiting job ends it at once; it never runs', async () => {
    const job = defineJob({ name: 'cancel-waiting', input: z.object({}), run: async () => 'ran' });
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, {});
    expect(await handle.cancel()).toEqual({ status: 'cancelled', outcome: 'cancelled' });
    expect(await handle.cancel()).toEqual({ status: 'cancelled', outcome: 'finished' });
    await fleet.work();
    const queue = fleet.queues.find((candidate) => candidate.name === 'cancel-waiting') as Queue;
    await expect.poll(async () => (await queue.getJob(handle.id))?.getState()).toBe('failed');
    await expect(handle.result()).rejects.toMatchObject({
      code: 'CANCELLED',
      status: 'cancelled',
    } satisfies Partial<JobFailedError>);
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event)).toEqual([{ type: 'cancelled' }]);
  });

  it.each(['live bus', 'heartbeat alone'])('of a running job aborts its signal through the %s', async (way) => {
    const running = Promise.withResolvers<void>();
    let reason: unknown;
    const job = defineJob({
      name: `cancel-running-${way.replaceAll(' ', '-')}`,
      input: z.object({}),
      run: async (_input, ctx) => {
        await ctx.emit({ type: 'begun' });
        running.resolve();
        await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
        reason = ctx.signal.reason;
        return 'partial';
      },
    });
    const prefix = uniquePrefix();
    const worker = createTestFleet(file.url, [job], { prefix });
    await worker.work();
    // Another prefix is another live bus: the order can only come with the heartbeat.
    const caller = way === 'live bus' ? worker : createTestFleet(file.url, [job], { prefix: uniquePrefix() });
    const handle = await worker.enqueue(job, {});
    await running.promise;
    expect(await caller.cancel(handle.id)).toEqual({ status: 'running', outcome: 'requested' });
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(reason).toBeInstanceOf(CancelledError);
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['begun', 'cancelled']);
    expect((await worker.get(handle.id))?.attempts.map((attempt) => attempt.outcome)).toEqual(['cancelled']);
  });

  it('of a delayed job, and of one that waits for its retry, ends it at once', async () => {
    const failed = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'cancel-delayed',
      input: z.object({ fail: z.boolean() }),
      backoff: { type: 'fixed', delayMs: 600_000 },
      run: async () => {
        failed.resolve();
        throw new Error('later');
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const delayed = await fleet.enqueue(job, { fail: false }, { delayMs: 600_000 });
    expect(await delayed.cancel()).toEqual({ status: 'cancelled', outcome: 'cancelled' });
    const retrying = await fleet.enqueue(job, { fail: true });
    await failed.promise;
    await expect.poll(async () => (await fleet.get(retrying.id))?.errorCount).toBe(1);
    expect(await retrying.cancel()).toEqual({ status: 'cancelled', outcome: 'cancelled' });
    expect((await journalOf(file.db, retrying.id)).map(({ event }) => event.type)).toEqual(['retry', 'cancelled']);
    await expect(retrying.result()).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('of a job whose worker died ends it at once; of one that is deferred, with the run it waits for', async () => {
    const job = defineJob({ name: 'cancel-dead', input: z.object({}), run: async () => 1 });
    const fleet = createTestFleet(file.url, [job]);
    const dead = await fleet.enqueue(job, {});
    await claimFree(file.db, dead.id);
    // Alive, as far as anybody can tell: its owner is told.
    expect(await dead.cancel()).toEqual({ status: 'running', outcome: 'requested' });
    await expireLease(file.db, dead.id);
    expect(await dead.cancel()).toEqual({ status: 'cancelled', outcome: 'cancelled' });
    const deferred = await fleet.enqueue(job, {});
    await claimFree(file.db, deferred.id);
    await fleet.work();
    await expect.poll(async () => (await fleet.get(deferred.id))?.deferralCount).toBe(1);
    await deferred.cancel();
    await expireLease(file.db, deferred.id);
    // The reconciler ends what was asked to end and has lost its worker.
    await expect(deferred.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('that races the completion ends in one recorded winner', async () => {
    const job = defineJob({ name: 'cancel-race', input: z.object({}), run: async () => 'done' });
    const fleet = createTestFleet(file.url, [job], { concurrency: 20 });
    await fleet.work();
    const handles = await Promise.all(Array.from({ length: 60 }, () => fleet.enqueue(job, {})));
    await Promise.all(handles.map((handle) => handle.cancel()));
    for (const handle of handles) {
      const outcome = await handle.result({ timeoutMs: 10_000 }).catch((error: { code: string }) => error.code);
      const row = await rowOf(file.db, handle.id);
      expect([row.status, outcome]).toEqual(
        row.status === 'completed' ? ['completed', 'done'] : ['cancelled', 'CANCELLED'],
      );
      const types: string[] = [];
      for await (const { event } of handle.events()) types.push(event.type);
      expect(types).toEqual([row.status === 'completed' ? 'end' : 'cancelled']);
    }
  });

  it('of an unknown job, or another tenant’s, is not found', async () => {
    const job = defineJob({ name: 'theirs', input: z.object({}), run: async () => 1 });
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, {}, { tenant: 'theirs' });
    await expect(fleet.cancel(handle.id)).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
    await expect(fleet.cancel('nonsense')).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
    expect(await fleet.get(handle.id)).toBeUndefined();
    await expect(fleet.follow(handle.id).next()).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
    await expect(fleet.result(handle.id)).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
  });
});

describe('redrive', () => {
  it('by a retry in BullMQ (Bull Board’s button) runs the failed job again', async () => {
    let broken = true;
    const job = defineJob({
      name: 'redrive',
      input: z.object({}),
      attempts: 1,
      run: async () => {
        if (broken) throw new Error('broken');
        return 'repaired';
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {}, { key: 'k' });
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ message: 'broken' });
    const queue = fleet.queues[0] as Queue;
    await expect.poll(async () => (await queue.getJob(handle.id))?.getState()).toBe('failed');
    broken = false;
    await (await queue.getJob(handle.id))?.retry('failed');
    await expect.poll(async () => (await fleet.get(handle.id))?.status).toBe('completed');
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['error', 'attempt', 'end']);
    const again = await fleet.enqueue(job, {}, { key: 'k' });
    expect(await again.result()).toBe('repaired');
  });

  it('is not what the reconciler does when a job fails between its look at the row and its look at BullMQ', async () => {
    let runs = 0;
    const state = { broken: true };
    const job = defineJob({
      name: 'stale-reconciler',
      input: z.object({}),
      run: async () => {
        runs++;
        if (state.broken) throw new NonRetryableError('no');
        return 'repaired';
      },
    });
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'NON_RETRYABLE' });
    const queue = fleet.queues[0] as Queue;
    const state1 = async () => (await queue.getJob(handle.id))?.getState();
    await expect.poll(state1, { timeout: 10_000 }).toBe('failed');
    const finishedAt = (await queue.getJob(handle.id))?.finishedOn as number;
    const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix });
    onTestFinished(() => runtime.close());
    const row = await rowOf(file.db, handle.id);
    await runtime.dispatcher.redispatch(
      {
        id: row.id,
        tenant: row.tenant,
        name: row.name,
        queue: row.queue,
        key: null,
        options: JSON.parse(row.options),
        delayMs: 0,
      },
      'client',
    );
    // Delivered again, it repeats its failure.
    await expect
      .poll(async () => (await queue.getJob(handle.id))?.finishedOn ?? 0, { timeout: 10_000 })
      .toBeGreaterThan(finishedAt);
    expect(await state1()).toBe('failed');
    expect(runs).toBe(1);
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'failed', fence: 1 });
    // And a person's retry is still one.
    state.broken = false;
    await (await queue.getJob(handle.id))?.retry('failed');
    await expect.poll(async () => (await fleet.get(handle.id))?.status, { timeout: 10_000 }).toBe('completed');
  });

  it('by an operator does too, and refuses jobs that have not failed', async () => {
    let broken = true;
    const job = defineJob({
      name: 'redrive-operator',
      input: z.object({}),
      attempts: 1,
      run: async () => {
        if (broken) throw new Error('broken');
        return 'repaired';
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toThrow('broken');
    const [queue] = fleet.queues as [Queue];
    await expect.poll(() => queue.getJobState(handle.id)).toBe('failed');
    const failed = await queue.getJob(handle.id);
    broken = false;
    await fleet.redrive(handle.id);
    await expect.poll(async () => (await fleet.get(handle.id))?.status).toBe('completed');
    // The same job in BullMQ, with its history; not another one of that id.
    expect((await queue.getJob(handle.id))?.timestamp).toBe(failed?.timestamp);
    await expect(fleet.redrive(handle.id)).rejects.toMatchObject({ code: 'JOB_NOT_FAILED' });
  });
});

describe('bulk redrive', () => {
  /** Five jobs that failed, and a switch that repairs them. */
  async function fiveFailed(name: string) {
    const state = { broken: true };
    const job = defineJob({
      name,
      input: z.object({ n: z.number() }),
      run: async () => {
        if (state.broken) throw new NonRetryableError('a \u0000 in the message', { code: 'MODEL_FAILED' });
        return 'repaired';
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handles = await Promise.all([0, 1, 2, 3, 4].map((n) => fleet.enqueue(job, { n })));
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 10_000 }).catch(() => undefined)));
    return { fleet, handles, state };
  }

  it('redrives canaries by the twenty; when one cannot be, reports that once nothing goes on', async () => {
    const job = defineJob({
      name: 'canaries-by-the-twenty',
      input: z.object({ n: z.number() }),
      run: async () => {
        throw new NonRetryableError('away', { code: 'MODEL_FAILED' });
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    const worker = await fleet.work();
    const handles = await Promise.all(Array.from({ length: 25 }, (_, n) => fleet.enqueue(job, { n })));
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 10_000 }).catch(() => undefined)));
    await worker.close();
    let redriven = 0;
    const outcome = fleet.redriveMany({
      name: job.name,
      canary: 25,
      onProgress() {
        redriven++;
        if (redriven === 1) throw new Error('the terminal is gone');
      },
    });
    await expect(outcome).rejects.toThrow('the terminal is gone');
    expect(redriven).toBe(20);
    expect((await fleet.find({ name: job.name, status: 'pending', limit: 100 })).jobs).toHaveLength(20);
    expect((await fleet.find({ name: job.name, status: 'failed', limit: 100 })).jobs).toHaveLength(5);
  });

  it('stops at canaries that fail again', async () => {
    const { fleet } = await fiveFailed('canary-fails');
    const result = await fleet.redriveMany({ name: 'canary-fails', canary: 2 });
    expect(result).toMatchObject({ matched: 5, redriven: 2 });
    expect(result.failedCanaries.map((canary) => canary.code)).toEqual(['MODEL_FAILED', 'MODEL_FAILED']);
    expect(
      (await fleet.find({ name: 'canary-fails', status: 'failed' })).jobs.filter((job) => job.fence === 1),
    ).toHaveLength(3);
  });

  it('goes on after canaries that complete, and takes only what the filter fits', async () => {
    const { fleet, handles, state } = await fiveFailed('canary-completes');
    state.broken = false;
    expect(await fleet.redriveMany({ name: 'canary-completes', code: 'HANDLER_ERROR' })).toMatchObject({ matched: 0 });
    expect(
      await fleet.redriveMany({
        name: 'canary-completes',
        code: 'MODEL_FAILED',
        canary: 1,
        limit: 4,
        withinMs: 60_000,
      }),
    ).toEqual({
      matched: 4,
      redriven: 4,
      failedCanaries: [],
    });
    await expect
      .poll(async () => (await fleet.find({ name: 'canary-completes', status: 'completed' })).jobs.length, {
        timeout: 10_000,
      })
      .toBe(4);
    expect((await fleet.find({ name: 'canary-completes', status: 'failed' })).jobs).toHaveLength(handles.length - 4);
  });
});

describe('a worker that closes', () => {
  it('interrupts its runs at the deadline; another finishes them, and nothing counts as crash or error', async () => {
    const prefix = uniquePrefix();
    const running = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'interrupted',
      input: z.object({}),
      run: async (_input, ctx) => {
        if (ctx.attempt > 1) return `attempt ${ctx.attempt}`;
        running.resolve();
        await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
        throw ctx.signal.reason;
      },
    });
    const first = createTestFleet(file.url, [job], { prefix });
    const worker = await first.work();
    const handle = await first.enqueue(job, {});
    await running.promise;
    await worker.close({ timeoutMs: 10 });
    expect(await rowOf(file.db, handle.id)).toMatchObject({
      status: 'pending',
      interruption_count: 1,
      crash_count: 0,
      error_count: 0,
    });
    const second = createTestFleet(file.url, [job], { prefix });
    await second.work();
    expect(await second.result(handle.id, { timeoutMs: 10_000 })).toBe('attempt 2');
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event)).toEqual([
      { type: 'attempt', attempt: 2, reason: 'interruption', resumed: false },
      { type: 'end', result: 'attempt 2' },
    ]);
  });
});

describe('a checkpoint', () => {
  it('is where the next attempt goes on; events after it are superseded', async () => {
    const job = defineJob({
      name: 'checkpointed',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      async run(_input, ctx) {
        const from = (ctx.resumedFrom as { next: number } | undefined)?.next ?? 0;
        for (let i = from; i < 4; i++) {
          await ctx.emit({ type: 'step', i });
          if (i === 1) await ctx.checkpoint({ next: 2 });
          if (i === 2 && ctx.attempt === 1) throw new Error('stumble');
        }
        return from;
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 10_000 })).toBe(2);
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event)).toMatchObject([
      { type: 'step', i: 0 },
      { type: 'step', i: 1 },
      { type: 'step', i: 2 },
      { type: 'retry' },
      { type: 'attempt', attempt: 2, resumed: true, from: 2 },
      { type: 'step', i: 2 },
      { type: 'step', i: 3 },
      { type: 'end', result: 2 },
    ]);
  });
});

describe('withIdempotency around a plain processor', () => {
  it('runs a key once, whichever BullMQ job carries it, and a job without a key under its own id', async () => {
    const prefix = uniquePrefix();
    const seen: unknown[] = [];
    const guarded = withIdempotency(
      async (job, _token, signal) => {
        seen.push(job.data);
        expect(signal).toBeInstanceOf(AbortSignal);
        return { saw: job.data.n };
      },
      { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix },
    );
    const worker = new Worker('plain', guarded, {
      connection: { url: testRedisUrl() },
      prefix,
      maxStalledCount: 1_000,
    });
    const events = new QueueEvents('plain', { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(async () => {
      await worker.close();
      await guarded.close();
      await events.close();
    });
    await events.waitUntilReady();
    const queue = openQueue('plain', prefix);
    const first = await queue.add('plain', { n: 1, idempotencyKey: 'k' });
    expect(await first.waitUntilFinished(events, 10_000)).toEqual({ saw: 1 });
    const second = await queue.add('plain', { n: 1, idempotencyKey: 'k' });
    expect(await second.waitUntilFinished(events, 10_000)).toEqual({ saw: 1 });
    const keyless = await queue.add('plain', { n: 2 });
    expect(await keyless.waitUntilFinished(events, 10_000)).toEqual({ saw: 2 });
    const withUuid = await queue.add('plain', { n: 3, key: 'theirs' }, { jobId: randomUUID() });
    expect(await withUuid.waitUntilFinished(events, 10_000)).toEqual({ saw: 3 });
    // An order's number is a key; what cannot be one is refused, not ignored.
    const numbered = [
      await queue.add('plain', { n: 4, idempotencyKey: 17 }),
      await queue.add('plain', { n: 4, idempotencyKey: '17' }),
    ];
    for (const one of numbered) expect(await one.waitUntilFinished(events, 10_000)).toEqual({ saw: 4 });
    // An empty field of data that are older than the fleet is no key.
    for (const idempotencyKey of [null, '']) {
      const without = await queue.add('plain', { n: 6, idempotencyKey });
      expect(await without.waitUntilFinished(events, 10_000)).toEqual({ saw: 6 });
    }
    for (const idempotencyKey of [{ a: 1 }, 1.5]) {
      const refused = await queue.add('plain', { n: 5, idempotencyKey });
      await expect(refused.waitUntilFinished(events, 10_000)).rejects.toThrow('KEY_INVALID');
    }
    const misused = await queue.add('plain', { n: 3, idempotencyKey: 'k' });
    await expect(misused.waitUntilFinished(events, 10_000)).rejects.toThrow('KEY_MISMATCH');
    expect(seen).toEqual([
      { n: 1, idempotencyKey: 'k' },
      { n: 2 },
      { n: 3, key: 'theirs' },
      { n: 4, idempotencyKey: 17 },
      { n: 6, idempotencyKey: null },
      { n: 6, idempotencyKey: '' },
    ]);
  });

  it('leaves attempts and backoff to BullMQ’s own options', async () => {
    const prefix = uniquePrefix();
    let runs = 0;
    const guarded = withIdempotency(
      async () => {
        runs++;
        throw new Error('always');
      },
      { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix },
    );
    const worker = new Worker('plain-errors', guarded, { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(async () => {
      await worker.close();
      await guarded.close();
    });
    const queue = openQueue('plain-errors', prefix);
    const job = await queue.add('x', {}, { attempts: 2, backoff: { type: 'fixed', delay: 5 } });
    await expect.poll(() => job.getState(), { timeout: 10_000 }).toBe('failed');
    expect(runs).toBe(2);
  });
});
