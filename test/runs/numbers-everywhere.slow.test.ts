/**
 * Every number that a stranger gives, end to end: from a call, a definition, a handler, a header, the options and the
 * fields of another client's BullMQ job. It is refused with its path, or the job that has it ends and can be read.
 */
import { randomUUID } from 'node:crypto';
import { DelayedError, type Job, Queue, Worker } from 'bullmq';
import fc from 'fast-check';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob, type Fleet, type JobContext, RetryAfterError, withIdempotency } from '../../src/index.ts';
import type { FleetOptions } from '../../src/workers/fleet.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 10 };

const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => connection.disconnect());

/** Numbers at the ends of what Postgres, Redis, timers and JSON hold, and what is none. */
const ODD: unknown[] = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  -1,
  -0,
  0.5,
  -1e20,
  1e20,
  1e308,
  5e-324,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 53,
  2 ** 53 + 2,
  2 ** 63,
  '7',
  '1e3',
  'soon',
  '',
  null,
  true,
  [],
  [7],
  {},
  7n,
];

const printed = (value: unknown) =>
  typeof value === 'bigint'
    ? `${value}n`
    : Object.is(value, -0)
      ? '-0'
      : (JSON.stringify(value) ?? String(value)) === 'null'
        ? String(value)
        : JSON.stringify(value);

/** Whether what failed is our refusal, with the path of what is wrong. */
function expectRefusal(error: unknown, path: string): void {
  const { code, message } = error as { code?: string; message: string };
  expect(`${code}: ${message}`).toMatch(/^(?:INPUT_INVALID|CURSOR_INVALID|WAIT_TIMEOUT): /);
  if (code === 'INPUT_INVALID') expect(message).toContain(path);
}

/** All that can be read of a job: none of it throws, and its times are times. */
async function read(fleet: Fleet, id: string) {
  const shown = await fleet.get(id);
  expect(shown?.id).toBe(id);
  for (const time of [shown?.runAt, shown?.createdAt]) expect(Number.isFinite(Date.parse(String(time)))).toBe(true);
  expect((await fleet.find({ name: shown?.name as string, limit: 100 })).jobs.map((job) => job.id)).toContain(id);
  expect(await fleet.readEvents(id)).toHaveProperty('events');
  JSON.stringify(shown);
  return shown;
}

describe.each(ODD.map((value) => [printed(value), value]))('the number %s', (_printed, value) => {
  const odd = value as number;

  it('in a call is refused with its path, or taken', async () => {
    const job = defineJob({ name: 'called', input: z.unknown(), run: async () => 'done' });
    const fleet = createTestFleet(file.url, [job], { tenant: randomUUID() });
    const done = await fleet.enqueue(job, {});
    const ids: string[] = [done.id];
    const calls: [string, () => Promise<unknown>][] = [
      ['delayMs', () => fleet.enqueue(job, {}, { delayMs: odd }).then(({ id }) => ids.push(id))],
      ['priority', () => fleet.enqueue(job, {}, { priority: odd }).then(({ id }) => ids.push(id))],
      ['maxBytes', () => fleet.get(done.id, { maxBytes: odd } as never)],
      ['limit', () => fleet.find({ limit: odd })],
      ['limit', () => fleet.readEvents(done.id, { limit: odd })],
      ['after', () => fleet.readEvents(done.id, { after: odd })],
      ['withinMs', () => fleet.redriveMany({ withinMs: odd })],
      ['limit', () => fleet.redriveMany({ limit: odd })],
      ['canary', () => fleet.redriveMany({ canary: odd })],
      ['canaryTimeoutMs', () => fleet.redriveMany({ canaryTimeoutMs: odd })],
      [
        'timeoutMs',
        () =>
          fleet
            .cancel(done.id)
            .then(() => done.result({ timeoutMs: odd }))
            .catch((error: unknown) => {
              if ((error as { code?: string }).code !== 'CANCELLED') throw error;
            }),
      ],
    ];
    for (const [path, call] of calls) await call().catch((error: unknown) => expectRefusal(error, path));
    for (const id of ids) await read(fleet, id);
    // The one that reads them all as rows of its own.
    expect((await fleet.doctor({ lookAgainMs: 0 })).findings).toBeDefined();
  });

  it('in a definition is refused with its path, or its job ends or waits', async () => {
    const policies: [string, object][] = [
      ['attempts', { attempts: odd, backoff: { type: 'fixed', delayMs: 0 } }],
      ['backoff.delayMs', { attempts: 2, backoff: { type: 'fixed', delayMs: odd } }],
      ['backoff.delayMs', { attempts: 2, backoff: { type: 'exponential', delayMs: odd } }],
      ['backoff.maxDelayMs', { attempts: 2, backoff: { type: 'fixed', delayMs: 1, maxDelayMs: odd } }],
      ['backoff.jitter', { attempts: 2, backoff: { type: 'fixed', delayMs: 1, jitter: odd } }],
      ['timeoutMs', { attempts: 1, timeoutMs: odd }],
      ['deadlineMs', { attempts: 1, deadlineMs: odd }],
      ['lease.ttlMs', { attempts: 1, lease: { ttlMs: odd } }],
      ['maxCrashes', { attempts: 1, maxCrashes: odd }],
      ['resultTtlMs', { attempts: 1, resultTtlMs: odd }],
      ['limits[0].concurrency', { attempts: 1, limits: [{ key: () => 'k', concurrency: odd }] }],
      ['limits[0].rate.max', { attempts: 1, limits: [{ key: () => 'k', rate: { max: odd, perMs: 50 } }] }],
      ['limits[0].rate.perMs', { attempts: 1, limits: [{ key: () => 'k', rate: { max: 5, perMs: odd } }] }],
    ];
    const jobs = policies.flatMap(([path, policy], n) => {
      try {
        return [
          defineJob({
            name: `policy-${n}`,
            input: z.unknown(),
            run: async () => Promise.reject(new Error('always')),
            ...policy,
          }),
        ];
      } catch (error) {
        expectRefusal(error, path);
        return [];
      }
    });
    const fleet = createTestFleet(file.url, jobs, { tenant: randomUUID() });
    await fleet.work();
    for (const job of jobs) {
      const { id } = await fleet.enqueue(job, {});
      await expect.poll(async () => (await fleet.get(id))?.errorCount, WAIT).toBeGreaterThanOrEqual(1);
      await read(fleet, id);
      await fleet.cancel(id);
      await expect.poll(async () => (await fleet.get(id))?.finishedAt, WAIT).not.toBeNull();
    }
  });

  it('in the options of a fleet is refused with its path, or taken', async () => {
    const names = [
      'databasePoolSize',
      'concurrency',
      'leaseTtlMs',
      'heartbeatMs',
      'maxBlockMs',
      'maxCrashes',
      'resultTtlMs',
      'reconcileMs',
      'streamRetentionMs',
      'jobRetentionMs',
      'sweepMs',
      'shutdownMs',
      'lingerMs',
    ];
    for (const name of names) {
      try {
        const fleet = createTestFleet(file.url, [], {
          heartbeatMs: undefined,
          [name]: odd,
        } as unknown as Partial<FleetOptions>);
        await fleet.close();
      } catch (error) {
        expectRefusal(error, name);
      }
    }
  });

  it('of a handler leaves a job that ends within its attempts or waits, and can be read', async () => {
    const handlers: [string, (ctx: JobContext) => Promise<unknown>][] = [
      ['RetryAfterError', async () => Promise.reject(new RetryAfterError('429', odd))],
      ['RetryAfterError of a queue', async () => Promise.reject(new RetryAfterError('429', odd, { scope: 'queue' }))],
      ['progress', async (ctx) => ctx.progress({ done: odd, total: odd })],
      ['result', async () => odd],
      ['result deep down', async () => ({ list: [odd] })],
      ['event', async (ctx) => ctx.emit({ type: 'n', odd })],
      ['checkpoint', async (ctx) => ctx.checkpoint(odd)],
      ['completion', async (ctx) => ctx.transaction((trx) => ctx.complete(trx, odd))],
      ['thrown', async () => Promise.reject(odd)],
      ['details of an error', async () => Promise.reject(Object.assign(new Error('x'), { code: odd, status: odd }))],
    ];
    const runs = new Map<string, number>();
    // A queue that is held stays held.
    const own = randomUUID().slice(0, 8);
    const jobs = handlers.map(([, run], n) =>
      defineJob({
        name: `handled-${n}-${own}`,
        input: z.unknown(),
        attempts: 3,
        backoff: { type: 'fixed', delayMs: 0 },
        run: async (_input, ctx) => {
          runs.set(ctx.jobId, (runs.get(ctx.jobId) ?? 0) + 1);
          return run(ctx);
        },
      }),
    );
    const fleet = createTestFleet(file.url, jobs, { tenant: randomUUID() });
    await fleet.work();
    const handles = await Promise.all(jobs.map((job) => fleet.enqueue(job, {})));
    for (const [n, { id }] of handles.entries()) {
      const rest = async () => {
        const shown = await fleet.get(id);
        if (shown?.finishedAt != null) return 'ended';
        return shown?.status === 'pending' && Date.parse(shown.runAt) > Date.now() + 5_000 ? 'waits' : shown?.status;
      };
      await expect.poll(rest, { ...WAIT, message: handlers[n]?.[0] as string }).toMatch(/^(?:ended|waits)$/);
      expect(runs.get(id), handlers[n]?.[0]).toBeLessThanOrEqual(3);
      await read(fleet, id);
    }
  });
});

describe('a job of another BullMQ client', () => {
  it('ends or waits, and can be read, whatever numbers stand in its options and fields', async () => {
    const prefix = uniquePrefix();
    const job = defineJob({
      name: 'odd',
      input: z.unknown(),
      run: async () => Promise.reject(new Error('always')),
    });
    const fleet = createTestFleet(file.url, [job], { prefix });
    const queue = new Queue('odd', { connection, prefix });
    onTestFinished(() => queue.close());
    await fleet.work();
    const texts = [
      'NaN',
      'Infinity',
      '-Infinity',
      '-1',
      '-0',
      '0.5',
      '1e20',
      '-1e400',
      '1e400',
      '9007199254740993',
      '2147483648',
      '"7"',
      '"soon"',
      '""',
      'null',
      'true',
      '[]',
      '{}',
    ];
    const field = fc.constantFrom('timestamp', 'delay', 'priority', 'pb', 'processedOn');
    const value = fc.constantFrom(...texts);
    // BullMQ counts in these, and its scripts fail for all jobs where one is no whole number.
    const counter = fc.constantFrom('atm', 'ats', 'stc');
    const whole = fc.constantFrom('-1', '0', '7', '2147483648', '9007199254740993');
    const json = fc.constantFrom(...texts.slice(3).filter((text) => text !== '-1e400'), '-1e400');
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(field, value, { maxKeys: 3 }),
        fc.dictionary(counter, whole, { maxKeys: 2 }),
        fc.dictionary(
          fc.constantFrom(
            'attempts',
            'delay',
            'priority',
            'timestamp',
            'kl',
            'sizeLimit',
            'removeOnFail',
            'removeOnComplete',
            'backoff',
          ),
          json,
          { maxKeys: 4 },
        ),
        fc.option(fc.dictionary(fc.constantFrom('delay', 'jitter'), json), { nil: undefined }),
        async (fields, counters, options, backoff) => {
          const key = randomUUID();
          await queue.pause();
          const { id } = await queue.add('odd', { idempotencyKey: key });
          const opts = Object.entries(options).map(([name, text]) => `"${name}":${text}`);
          if (backoff !== undefined)
            opts.push(
              `"backoff":{"type":"fixed",${Object.entries({ delay: '1', ...backoff })
                .map(([name, text]) => `"${name}":${text}`)
                .join(',')}}`,
            );
          await connection.hset(`${prefix}:odd:${id}`, { ...fields, ...counters, opts: `{${opts.join(',')}}` });
          await queue.resume();
          const find = async () => (await fleet.find({ key })).jobs[0];
          await expect.poll(async () => (await find())?.errorCount ?? 0, WAIT).toBeGreaterThan(0);
          const row = await find();
          await read(fleet, row?.id as string);
          // One with attempts without end is ended by hand.
          await fleet.cancel(row?.id as string);
          await expect.poll(async () => (await find())?.finishedAt, WAIT).not.toBeNull();
        },
      ),
      { numRuns: 60, endOnFailure: true },
    );
  });
});

describe('a guarded queue', () => {
  it.each(ODD.map((value) => [printed(value), value]))(
    'a processor, a strategy and options with %s end or wait',
    async (_printed, value) => {
      const odd = value as number;
      const prefix = uniquePrefix();
      const runs = new Map<string, number>();
      const guarded = withIdempotency(
        async (job: Job, token?: string) => {
          runs.set(String(job.id), (runs.get(String(job.id)) ?? 0) + 1);
          if (job.name === 'moves' && runs.get(String(job.id)) === 1) {
            await job.moveToDelayed(odd, token);
            throw new DelayedError();
          }
          if (job.name === 'retry-after') throw new RetryAfterError('429', odd);
          if (job.name === 'returns') return odd;
          if (job.name === 'progress') {
            await job.updateProgress(odd);
            return 1;
          }
          throw new Error('always');
        },
        { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix, databasePoolSize: 3 },
      );
      const queue = new Queue('guarded', { connection, prefix });
      const worker = new Worker('guarded', guarded, {
        connection: { url: testRedisUrl() },
        prefix,
        settings: { backoffStrategy: () => odd },
      });
      worker.on('error', () => undefined);
      onTestFinished(async () => {
        await worker.close();
        await guarded.close();
        await queue.close();
      });
      const added: Job[] = [];
      const add = async (name: string, options: object) => {
        try {
          added.push(await queue.add(name, {}, options));
        } catch {
          // BullMQ refuses some by itself.
        }
      };
      await add('retry-after', { attempts: 2 });
      await add('returns', {});
      await add('progress', {});
      await add('strategy', { attempts: 2, backoff: { type: 'custom' } });
      await add('fixed', { attempts: 2, backoff: { type: 'fixed', delay: odd } });
      await add('plain', { attempts: odd, backoff: { type: 'fixed', delay: 60_000 } });
      for (const bull of added)
        await expect
          .poll(async () => {
            const state = await bull.getState();
            return (
              state === 'completed' ||
              state === 'failed' ||
              (state === 'delayed' && (runs.get(String(bull.id)) ?? 0) > 0)
            );
          }, WAIT)
          .toBe(true);
      const rows = await file.db.selectFrom('jobs').selectAll().where('key_scope', '=', `${prefix}:guarded`).execute();
      for (const row of rows) for (const time of [row.run_at, row.created_at]) expect(time).toBeInstanceOf(Date);
    },
  );
});
