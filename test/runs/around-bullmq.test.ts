/** BullMQ's own meaning, with `withIdempotency` around a processor: nothing of a user's queue is lost or changed. */
import { randomBytes } from 'node:crypto';
import { type Job, type JobsOptions, Queue, QueueEvents, UnrecoverableError, Worker, type WorkerOptions } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { createFleet, type JobContext, NonRetryableError, RetryAfterError, withIdempotency } from '../../src/index.ts';
import { type Logger, silentLogger } from '../../src/log.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 15_000, interval: 10 };
const HOUR = 3_600_000;

const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => connection.disconnect());

type Processor = (job: Job, token: string | undefined, signal: AbortSignal, ctx: JobContext) => unknown;

/** A queue of a user's own, its guarded worker, and a fleet that looks after the rows. */
async function stage(
  processor: Processor,
  options: {
    queue?: string;
    prefix?: string;
    fleetPrefix?: string;
    worker?: Partial<WorkerOptions>;
    guard?: { log?: Logger; leaseTtlMs?: number };
  } = {},
) {
  const prefix = options.prefix ?? uniquePrefix();
  const fleetPrefix = options.fleetPrefix ?? uniquePrefix();
  const name = options.queue ?? 'plain';
  const servers = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: fleetPrefix, databasePoolSize: 3 };
  const guarded = withIdempotency(processor, { ...servers, leaseTtlMs: 5_000, ...options.guard });
  const worker = new Worker(name, guarded, {
    connection: { url: testRedisUrl() },
    prefix,
    maxStalledCount: 1_000,
    ...options.worker,
  });
  worker.on('error', () => undefined);
  const queue = new Queue(name, { connection, prefix });
  const events = new QueueEvents(name, { connection: { url: testRedisUrl() }, prefix });
  const runtime = new Runtime(servers);
  const fleet = createFleet({ ...servers, jobs: [] });
  onTestFinished(async () => {
    await worker.close();
    await guarded.close();
    await Promise.all([queue.close(), events.close(), runtime.close(), fleet.close()]);
  });
  await events.waitUntilReady();
  const reconciler = new Reconciler({ runtime, jobs: new Map(), intervalMs: HOUR });
  return {
    prefix,
    fleetPrefix,
    queue,
    events,
    worker,
    guarded,
    fleet,
    run: (job: Job) => job.waitUntilFinished(events, 15_000),
    /** The rows of this queue, oldest first. */
    rows: () =>
      file.db
        .selectFrom('jobs')
        .selectAll()
        .where('queue', '=', name)
        .where('key_scope', '=', `${prefix}:${name}`)
        .orderBy('id')
        .execute(),
    reconcile: () => reconciler.reconcile(),
    /** As after FLUSHALL, for this queue alone. */
    async flush() {
      const keys = await connection.keys(`${prefix}:${name}:*`);
      if (keys.length > 0) await connection.del(keys);
    },
    /** A waiting row is due now. */
    async makeDue() {
      await file.db
        .updateTable('jobs')
        .set({ run_at: new Date(Date.now() - 5_000) })
        .where('queue', '=', name)
        .where('status', '=', 'pending')
        .execute();
      await file.db
        .updateTable('unfinished_jobs')
        .set({ run_at: new Date(Date.now() - 5_000) })
        .execute();
    },
    ghosts: async () =>
      (await connection.keys(`${fleetPrefix}:${name}:*`)).filter((key) => /:[0-9a-f-]{36}$/.test(key)),
  };
}

type Stage = Awaited<ReturnType<typeof stage>>;

const DATA: Record<string, unknown> = {
  object: { amount: 5, deep: { list: [1, 'two', null] }, idempotencyKey: 'order-1' },
  'object without a key': { amount: 5 },
  'empty object': {},
  array: [1, { two: 2 }],
  string: 'text',
  number: 7,
  null: null,
  false: false,
};

/** Each brings a job that failed once to its processor again. */
const AGAIN: Record<string, { attempts: number; again(stage: Stage, job: Job): Promise<unknown> }> = {
  'a retry that BullMQ makes': { attempts: 2, again: (_, job) => job.promote() },
  'the reconciler after a flush': {
    attempts: 2,
    async again(s) {
      await s.flush();
      await s.makeDue();
      await s.reconcile();
    },
  },
  'doctor --fix after a flush': {
    attempts: 2,
    async again(s) {
      await s.flush();
      await s.makeDue();
      await s.fleet.doctor({ fix: true, lookAgainMs: 0 });
    },
  },
  'a redrive': { attempts: 1, again: async (s) => s.fleet.redrive((await s.rows())[0]?.id as string) },
  'a redrive after a flush': {
    attempts: 1,
    async again(s) {
      await s.flush();
      await s.fleet.redrive((await s.rows())[0]?.id as string);
    },
  },
  'Bull Board’s retry': { attempts: 1, again: (_, job) => job.retry('failed') },
};

describe('whatever delivers a job again', () => {
  it.each(['a\u0000b', 'json:"a"', 'json:{', 'plain'])('gives it the name it had: %j', async (name) => {
    const names: string[] = [];
    const s = await stage((job) => {
      names.push(job.name);
      if (names.length === 1) throw new Error('first');
    });
    const job = await s.queue.add(name, {}, { attempts: 2, backoff: { type: 'fixed', delay: HOUR } });
    await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBe(1);
    await expect.poll(() => job.getState(), WAIT).toBe('delayed');
    await s.flush();
    await s.makeDue();
    await s.reconcile();
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('completed');
    expect(names).toEqual([name, name]);
  });

  const cases = Object.keys(AGAIN).flatMap((way) =>
    Object.keys(DATA).flatMap((kind) => ['an own', 'the fleet’s'].map((prefix) => ({ way, kind, prefix }))),
  );

  it.each(cases)('gives its processor the data it had: $way, $kind, $prefix prefix', async ({ way, kind, prefix }) => {
    const { attempts, again } = AGAIN[way] as (typeof AGAIN)[string];
    const shared = uniquePrefix();
    const seen: unknown[] = [];
    const s = await stage(
      (job) => {
        seen.push(job.data);
        if (seen.length === 1) throw new Error('first');
        return { saw: job.data };
      },
      prefix === 'an own' ? {} : { prefix: shared, fleetPrefix: shared },
    );
    const job = await s.queue.add('plain', DATA[kind], { attempts, backoff: { type: 'fixed', delay: HOUR } });
    await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBe(1);
    await expect.poll(() => job.getState(), WAIT).toBe(attempts === 1 ? 'failed' : 'delayed');
    // What BullMQ has is not given to it a second time.
    expect(await s.reconcile()).toBe(0);
    expect(await s.ghosts()).toEqual([]);
    await again(s, (await s.queue.getJob(job.id as string)) as Job);
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('completed');
    expect(seen).toEqual([DATA[kind], DATA[kind]]);
    const [row, ...more] = await s.rows();
    expect(more).toEqual([]);
    expect(JSON.parse(row?.result as string)).toEqual({ saw: DATA[kind] });
    await expect
      .poll(() => s.queue.getJobCounts('completed', 'wait', 'delayed', 'failed', 'active'), WAIT)
      .toEqual({
        completed: 1,
        wait: 0,
        delayed: 0,
        failed: 0,
        active: 0,
      });
    expect(await s.ghosts()).toEqual([]);
  });

  it.each([
    ['a custom id, priority and removeOnComplete', { jobId: 'order-7', priority: 3, removeOnComplete: true }],
    ['an id of BullMQ', { priority: 3, lifo: true, keepLogs: 2 }],
    ['a deduplication key', { deduplication: { id: 'one' }, jobId: 'x' }],
    ['an id that is too long for a key', { jobId: randomBytes(2_000).toString('hex') }],
  ] as [string, JobsOptions][])('keeps its options: %s', async (_, given) => {
    const opts: JobsOptions[] = [];
    const ids: unknown[] = [];
    const s = await stage((job) => {
      opts.push({ ...job.opts });
      ids.push(job.id);
      if (opts.length === 1) throw new Error('first');
      return opts.length;
    });
    await s.queue.add('plain', { a: 1 }, { attempts: 2, backoff: { type: 'fixed', delay: HOUR }, ...given });
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('pending');
    await expect.poll(() => s.queue.getDelayedCount(), WAIT).toBe(1);
    await s.flush();
    // Somebody else has its deduplication key meanwhile.
    const { deduplication: taken } = given;
    if (taken !== undefined) await s.queue.add('plain', {}, { delay: HOUR, deduplication: taken });
    await s.makeDue();
    await s.reconcile();
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('completed');
    const { deduplication: _dropped, ...kept } = given;
    expect(opts[1]).toMatchObject({ attempts: 2, ...kept });
    if (given.jobId !== undefined) expect(ids[1]).toBe(given.jobId);
    expect(await s.rows()).toHaveLength(1);
  });

  it('counts on after a flush: the attempts that are left are as many as there were', async () => {
    let runs = 0;
    const made: number[] = [];
    const s = await stage((job) => {
      made.push(job.attemptsMade);
      runs++;
      throw new Error(`try ${runs}`);
    });
    await s.queue.add('plain', {}, { attempts: 3, backoff: { type: 'fixed', delay: HOUR } });
    for (let flushes = 1; flushes < 3; flushes++) {
      await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBe(flushes);
      await s.flush();
      await s.makeDue();
      await s.reconcile();
    }
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('failed');
    expect(made).toEqual([0, 1, 2]);
    await expect.poll(() => s.queue.getFailedCount(), WAIT).toBe(1);
  });

  it('gives another job that has taken its number since the flush its own data and its own row', async () => {
    const seen: unknown[] = [];
    const s = await stage((job) => {
      seen.push(job.data);
      if (seen.length === 1) throw new Error('first');
      return job.data;
    });
    await s.queue.add('plain', { mine: 1 }, { attempts: 2, backoff: { type: 'fixed', delay: HOUR } });
    await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBe(1);
    await s.flush();
    const other = await s.queue.add('plain', { theirs: 2 });
    expect(other.id).toBe('1');
    expect(await s.run(other)).toEqual({ theirs: 2 });
    await s.makeDue();
    await s.reconcile();
    await expect.poll(async () => (await s.rows()).map((row) => row.status), WAIT).toEqual(['completed', 'completed']);
    expect(seen).toEqual([{ mine: 1 }, { theirs: 2 }, { mine: 1 }]);
  });
});

describe('data that a processor changes', () => {
  it.each([
    ['its key stays', { idempotencyKey: 'steps-1', step: 0 }, (data: object) => ({ ...data, step: 1 })],
    ['its key goes', { idempotencyKey: 'steps-2', step: 0 }, () => ({ step: 1 })],
    ['it had none', { step: 0 }, () => ({ step: 1 })],
    ['its key becomes another', { idempotencyKey: 'steps-3', step: 0 }, () => ({ idempotencyKey: 'other', step: 1 })],
    ['it becomes a text', { step: 0 }, () => 'step 1' as unknown as object],
  ] as const)('are what the next attempt gets, also after a flush: %s', async (_, data, change) => {
    for (const flushed of [false, true]) {
      const seen: unknown[] = [];
      const s = await stage(async (job) => {
        seen.push(job.data);
        if (seen.length > 1) return 'done';
        await job.updateData(change(job.data));
        throw new Error('between two steps');
      });
      const job = await s.queue.add('plain', data, { attempts: 2, backoff: { type: 'fixed', delay: HOUR } });
      await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBe(1);
      await expect.poll(() => job.getState(), WAIT).toBe('delayed');
      if (flushed) {
        await s.flush();
        await s.makeDue();
        await s.reconcile();
      } else await job.promote();
      await expect.poll(async () => (await s.rows()).map((row) => row.status), WAIT).toEqual(['completed']);
      expect(seen).toEqual([data, change(data)]);
    }
  });

  it('are the job’s own where a person changed them in Bull Board and retried it', async () => {
    const seen: unknown[] = [];
    const s = await stage((job) => {
      seen.push(job.data);
      if (seen.length === 1) throw new Error('bad data');
      return 'done';
    });
    const job = await s.queue.add('plain', { idempotencyKey: 'k', to: 'nobdy' });
    await expect(s.run(job)).rejects.toThrow('bad data');
    const failed = (await s.queue.getJob(job.id as string)) as Job;
    await failed.updateData({ to: 'nobody' });
    await failed.retry('failed');
    await expect.poll(async () => (await s.rows()).map((row) => row.status), WAIT).toEqual(['completed']);
    expect(seen).toEqual([{ idempotencyKey: 'k', to: 'nobdy' }, { to: 'nobody' }]);
  });
});

describe('the scope of a key', () => {
  it('has the queue in it: two queues with one name, key and input run both', async () => {
    const ran: string[] = [];
    const stages = await Promise.all(
      ['mails', 'texts'].map((queue) => stage((job) => ran.push(job.queueName) && job.queueName, { queue })),
    );
    for (const s of stages) {
      const data = { idempotencyKey: 'same', to: 'Ada' };
      expect(await s.run(await s.queue.add('send', data))).toBe(s.queue.name);
      expect(await s.run(await s.queue.add('send', data))).toBe(s.queue.name);
    }
    expect(ran).toEqual(['mails', 'texts']);
  });
});

describe('an error of the handler', () => {
  class CardDeclined extends Error {
    override name = 'CardDeclined';
  }

  it.each([1, 2])('is BullMQ’s own at attempt %i of 2: event, reason, stack and class', async (failures) => {
    const errors: Error[] = [];
    let runs = 0;
    const s = await stage(() => {
      if (++runs <= failures) throw new CardDeclined(`declined ${runs}`);
      return 'ok';
    });
    s.worker.on('failed', (_, error) => errors.push(error));
    const job = await s.queue.add('plain', {}, { attempts: 2 });
    if (failures === 2) await expect(s.run(job)).rejects.toThrow(/^declined 2$/);
    else expect(await s.run(job)).toBe('ok');
    await expect
      .poll(() => errors.map((error) => [error.constructor, error.message]), WAIT)
      .toEqual(Array.from({ length: failures }, (_, i) => [CardDeclined, `declined ${i + 1}`]));
    const after = (await s.queue.getJob(job.id as string)) as Job;
    if (failures === 2) expect(after.failedReason).toBe('declined 2');
    expect(after.stacktrace?.map((stack) => stack.split('\n')[0])).toEqual(
      errors.map((error) => `CardDeclined: ${error.message}`),
    );
    expect(after.opts.attempts).toBe(2);
  });

  it.each([
    ['of BullMQ', new UnrecoverableError('no')],
    ['of another copy of BullMQ', Object.assign(new Error('no'), { name: 'UnrecoverableError' })],
    ['of the fleet', new NonRetryableError('no')],
  ])('that is unrecoverable %s ends the row too', async (_, error) => {
    let runs = 0;
    const s = await stage(() => {
      runs++;
      throw error;
    });
    await expect(s.run(await s.queue.add('plain', {}, { attempts: 5 }))).rejects.toThrow(/^no$/);
    expect((await s.rows()).map((row) => [row.status, row.error_count])).toEqual([['failed', 1]]);
    expect(runs).toBe(1);
  });

  it.each([
    ['a number', 60_000, [60_000, 60_000]],
    ['two hours', { type: 'fixed', delay: 2 * HOUR }, [2 * HOUR, 2 * HOUR]],
    ['exponential', { type: 'exponential', delay: HOUR }, [HOUR, 2 * HOUR]],
    ['a strategy of the worker’s', { type: 'mine' }, [1_000, 2_000]],
    ['none', undefined, [0, 0]],
  ] as [string, JobsOptions['backoff'], number[]][])('comes again when BullMQ says: %s', async (_, backoff, delays) => {
    let runs = 0;
    const s = await stage(
      () => {
        runs++;
        throw new Error('again');
      },
      { worker: { settings: { backoffStrategy: (made: number) => made * 1_000 } } },
    );
    const waits: number[] = [];
    const job = await s.queue.add('plain', {}, { attempts: 3, ...(backoff === undefined ? {} : { backoff }) });
    for (let i = 1; i < 3; i++) {
      await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBeGreaterThanOrEqual(i);
      if (delays[i - 1] === 0) continue;
      await expect.poll(() => job.getState(), WAIT).toBe('delayed');
      const now = (await s.queue.getJob(job.id as string)) as Job;
      waits.push(now.delay);
      const [row] = await s.rows();
      const last = await file.db
        .selectFrom('ended_attempts')
        .select('finished_at')
        .where('job_id', '=', row?.id as string)
        .orderBy('fence', 'desc')
        .executeTakeFirstOrThrow();
      expect(Number(row?.run_at) - Number(last.finished_at)).toBeCloseTo(delays[i - 1] as number, -2);
      await now.promote();
    }
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('failed');
    if (delays[0] !== 0) expect(waits).toEqual(delays);
    expect(runs).toBe(3);
  });

  it('ends where the strategy says so, and where it throws BullMQ’s own rules hold', async () => {
    const s = await stage(
      () => {
        throw new Error('final');
      },
      { worker: { settings: { backoffStrategy: () => -1 } } },
    );
    await expect(s.run(await s.queue.add('plain', {}, { attempts: 5, backoff: { type: 'mine' } }))).rejects.toThrow(
      'final',
    );
    expect((await s.rows()).map((row) => row.status)).toEqual(['failed']);
  });

  it.each([-1, Number.NaN, Number.POSITIVE_INFINITY, 1e20])(
    'with a retryAfterMs of %s counts, and ends',
    async (ms) => {
      let runs = 0;
      const s = await stage(() => {
        runs++;
        throw new RetryAfterError('429', ms);
      });
      const job = await s.queue.add('plain', {}, { attempts: 3 });
      for (let i = 1; i <= 3; i++) {
        await expect.poll(async () => (await s.rows())[0]?.error_count, WAIT).toBeGreaterThanOrEqual(i);
        await (await s.queue.getJob(job.id as string))?.promote().catch(() => undefined);
      }
      await expect.poll(() => job.getState(), WAIT).toBe('failed');
      expect(runs).toBe(3);
    },
  );
});

describe('what a processor tells BullMQ about its job', () => {
  it.each<[string, (job: Job, token: string, worker: Worker) => Promise<never>]>([
    [
      'DelayedError',
      async (job, token) => {
        await job.moveToDelayed(Date.now() + 20, token);
        throw named('DelayedError');
      },
    ],
    [
      'WaitingError',
      async (job, token) => {
        await job.moveToWait(token);
        throw named('WaitingError');
      },
    ],
    [
      'RateLimitError',
      async (_job, _token, worker) => {
        await worker.rateLimit(20);
        throw Worker.RateLimitError();
      },
    ],
  ])('%s goes through as it is, and costs neither attempt nor error', async (_, pause) => {
    const seen: { n: number; attempt: number }[] = [];
    const failed = vi.fn();
    const s = await stage(
      async (job, token, _signal, ctx) => {
        seen.push({ n: job.attemptsMade, attempt: ctx.attempt });
        await ctx.emit({ type: 'step', n: seen.length });
        if (seen.length < 4) await pause(job, token as string, s.worker);
        return 'done';
      },
      { worker: { limiter: { max: 100, duration: 1_000 } } },
    );
    s.worker.on('failed', failed);
    expect(await s.run(await s.queue.add('plain', {}))).toBe('done');
    expect(failed).not.toHaveBeenCalled();
    expect(seen).toEqual(Array(4).fill({ n: 0, attempt: 1 }));
    const [row, ...more] = await s.rows();
    expect(more).toEqual([]);
    expect(row).toMatchObject({
      status: 'completed',
      error_count: 0,
      crash_count: 0,
      interruption_count: 0,
      deferral_count: 3,
    });
    const events: unknown[] = [];
    for await (const { event } of s.fleet.follow(row?.id as string))
      events.push(event.type === 'step' ? event.n : event.type);
    expect(events).toEqual([1, 2, 3, 4, 'end']);
  });

  it('a delay that it asked for is the row’s, so that nothing makes the job due before', async () => {
    let runs = 0;
    const s = await stage(async (job, token) => {
      if (++runs > 1) return 'done';
      await job.moveToDelayed(Date.now() + HOUR, token);
      throw named('DelayedError');
    });
    const job = await s.queue.add('plain', {});
    await expect.poll(() => job.getState(), WAIT).toBe('delayed');
    await expect.poll(async () => (await s.rows())[0]?.status, WAIT).toBe('pending');
    expect(Number((await s.rows())[0]?.run_at) - Date.now()).toBeGreaterThan(HOUR - 60_000);
    expect(await s.reconcile()).toBe(0);
    expect(await job.getState()).toBe('delayed');
    await job.promote();
    expect(await s.run(job)).toBe('done');
  });

  it('a parent waits for children that it adds, and the doctor finds nothing wrong with that', async () => {
    const s: Stage = await stage(async (job, token) => {
      if (job.name === 'child') return job.data.n;
      if (job.data.step !== 2) {
        const parent = { id: job.id as string, queue: job.queueQualifiedName };
        await s.queue.add('child', { n: 1 }, { parent, delay: job.data.hold });
        await job.updateData({ ...job.data, step: 2 });
        if (await job.moveToWaitingChildren(token as string)) throw named('WaitingChildrenError');
      }
      return Object.values(await job.getChildrenValues());
    });
    const parent = await s.queue.add('parent', { idempotencyKey: 'flow', hold: HOUR });
    await expect.poll(() => parent.getState(), WAIT).toBe('waiting-children');
    await expect.poll(async () => (await s.rows()).map((row) => row.status), WAIT).toEqual(['pending']);
    await s.makeDue();
    expect(await s.reconcile()).toBe(0);
    const { findings } = await s.fleet.doctor({ fix: true, lookAgainMs: 0 });
    expect(findings.filter(({ count }) => count > 0)).toEqual([]);
    const [child] = await s.queue.getDelayed();
    await child?.promote();
    expect(await s.run(parent)).toEqual([1]);
    expect((await s.rows()).map((row) => [row.name, row.status])).toEqual([
      ['parent', 'completed'],
      ['child', 'completed'],
    ]);
  });
});

describe('BullMQ’s cancel', () => {
  it('fails the job with what the processor throws for it, and does not run it again', async () => {
    let runs = 0;
    const started = Promise.withResolvers<void>();
    const s = await stage((_job, _token, signal) => {
      runs++;
      started.resolve();
      return new Promise((_, reject) =>
        signal.addEventListener('abort', () => reject(new UnrecoverableError(`cancelled: ${signal.reason}`))),
      );
    });
    const job = await s.queue.add('plain', {}, { attempts: 3 });
    await started.promise;
    expect(s.worker.cancelJob(job.id as string, 'too dear')).toBe(true);
    await expect(s.run(job)).rejects.toThrow(/^cancelled: too dear$/);
    expect(runs).toBe(1);
    expect((await s.rows()).map((row) => [row.status, row.interruption_count])).toEqual([['failed', 0]]);
  });

  it('that comes while the job is claimed is heard by the processor’s listener', async () => {
    const s = await stage(
      (_job, _token, signal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error(`${signal.reason}`)))),
    );
    // As soon as BullMQ can cancel it: its row is not claimed by then.
    const cancel = (id: string): void => {
      if (!s.worker.cancelJob(id, 'at once')) setImmediate(cancel, id);
    };
    s.worker.on('active', (job) => cancel(job.id as string));
    await expect(s.run(await s.queue.add('plain', {}))).rejects.toThrow(/^at once$/);
  });

  it('finds no signal where the processor declares none', async () => {
    const started = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const s = await stage((_job: Job) => {
      started.resolve();
      return go.promise.then(() => 'done');
    });
    const job = await s.queue.add('plain', {});
    await started.promise;
    expect(s.worker.cancelJob(job.id as string)).toBe(false);
    go.resolve();
    expect(await s.run(job)).toBe('done');
  });

  it('leaves a processor that does not listen to its result', async () => {
    const started = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const s = await stage(async (_job, _token, _signal) => {
      started.resolve();
      await go.promise;
      return 'done all the same';
    });
    const job = await s.queue.add('plain', {});
    await started.promise;
    s.worker.cancelJob(job.id as string);
    go.resolve();
    expect(await s.run(job)).toBe('done all the same');
  });

  it('is another thing than the end of this process, which gives the job back', async () => {
    let runs = 0;
    const started = Promise.withResolvers<void>();
    const s = await stage((_job, _token, signal) => {
      if (++runs > 1) return 'done';
      started.resolve();
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    });
    const job = await s.queue.add('plain', {});
    await started.promise;
    s.guarded.interrupt();
    expect(await s.run(job)).toBe('done');
    expect((await s.rows()).map((row) => [row.status, row.interruption_count])).toEqual([['completed', 1]]);
  });
});

describe('a retry of a completed job', () => {
  it('runs it again where it has no key, and gives its outcome where it has one', async () => {
    let runs = 0;
    const s = await stage(() => ++runs);
    const free = await s.queue.add('plain', { a: 1 });
    expect(await s.run(free)).toBe(1);
    await free.retry('completed');
    await expect.poll(async () => (await s.queue.getJob(free.id as string))?.returnvalue, WAIT).toBe(2);
    const keyed = await s.queue.add('plain', { a: 1, idempotencyKey: 'k' });
    expect(await s.run(keyed)).toBe(3);
    await keyed.retry('completed');
    await expect.poll(() => keyed.getState(), WAIT).toBe('completed');
    await expect.poll(async () => (await s.queue.getJob(keyed.id as string))?.returnvalue, WAIT).toBe(3);
    expect(runs).toBe(3);
    expect((await s.rows()).map((row) => [row.status, row.result])).toEqual([
      ['completed', '2'],
      ['completed', '3'],
    ]);
  });
});

describe('a retry that resets BullMQ’s counts', () => {
  it.each(['failed', 'completed'] as const)('runs a %s job again', async (state) => {
    let runs = 0;
    const s = await stage(() => {
      runs++;
      if (state === 'failed' && runs === 1) throw new Error('first');
      return runs;
    });
    const job = await s.queue.add('plain', {});
    await expect.poll(() => job.getState(), WAIT).toBe(state);
    await job.retry(state, { resetAttemptsMade: true, resetAttemptsStarted: true });
    await expect.poll(async () => (await s.queue.getJob(job.id as string))?.returnvalue, WAIT).toBe(2);
    expect(runs).toBe(2);
  });
});

describe('a forced close', () => {
  it('gives the jobs of its handlers back at once, not when their leases run out', async () => {
    const started = Promise.withResolvers<void>();
    const s = await stage(
      (_job, _token, signal) => {
        started.resolve();
        return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      },
      { guard: { leaseTtlMs: 60_000 } },
    );
    await s.queue.add('plain', {});
    await started.promise;
    await s.worker.close(true);
    await s.guarded.close();
    expect((await s.rows()).map((row) => [row.status, row.interruption_count])).toEqual([['pending', 1]]);
  });
});

describe('a job scheduler', () => {
  it('whose template has a key is warned of once', async () => {
    const warnings: [unknown, string][] = [];
    const log = Object.assign(silentLogger(), {
      child: () => log,
      warn: (fields: unknown, text: string) => warnings.push([fields, text]),
    });
    let runs = 0;
    const s = await stage(() => ++runs, { guard: { log } });
    await s.queue.upsertJobScheduler('each', { every: 20 }, { name: 'plain', data: { idempotencyKey: 'secret key' } });
    await expect.poll(() => s.queue.getCompletedCount(), WAIT).toBeGreaterThan(2);
    await s.queue.removeJobScheduler('each');
    expect(warnings.filter(([, text]) => /scheduler/.test(text))).toHaveLength(1);
    expect(JSON.stringify(warnings)).not.toContain('secret key');
    expect(runs).toBe(1);
  });

  it('whose template has none runs each of its jobs', async () => {
    let runs = 0;
    const s = await stage(() => ++runs);
    await s.queue.upsertJobScheduler('each', { every: 20 }, { name: 'plain', data: {} });
    await expect.poll(() => runs, WAIT).toBeGreaterThan(2);
    await s.queue.removeJobScheduler('each');
  });
});

/** As another copy of BullMQ makes it. */
function named(name: string): Error {
  return Object.assign(new Error(`bullmq:${name}`), { name });
}
