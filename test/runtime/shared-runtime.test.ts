/** Guarded processors of one process on shared connections. */
import { Queue, Worker } from 'bullmq';
import { Queue as Queue5, Worker as Worker5 } from 'bullmq5';
import { Redis } from 'ioredis';
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createLogger, defineJob, startMaintenance, withIdempotency } from '../../src/index.ts';
import { Guard } from '../../src/runs/guard.ts';
import type { JobSpec } from '../../src/runs/spec.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { type RuntimeShare, shareRuntime } from '../../src/runtime/shared-runtime.ts';
import { backdateJob, claimFree, expireLease, insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

const settings = () => ({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });

function share(options: Parameters<typeof shareRuntime>[0]): RuntimeShare {
  const taken = shareRuntime(options);
  onTestFinished(() => taken.release());
  return taken;
}

/** A user's queue and worker around a processor; closed in the order that the page gives. */
function serve<P extends { close(): Promise<void> }>(
  guarded: P & ((job: never) => Promise<unknown>),
  prefix: string,
  name: string,
) {
  const connection = { url: testRedisUrl() };
  const worker = new Worker(name, guarded as never, { connection, prefix });
  const queue = new Queue(name, { connection, prefix });
  onTestFinished(async () => {
    await Promise.all([worker.close(), queue.close()]);
    await guarded.close();
  });
  return { queue, worker };
}

const addAndWait = async (queue: Queue, data: unknown, id: string) => {
  const job = await queue.add('charge', data, { jobId: id });
  await expect.poll(() => job.getState(), { timeout: 10_000 }).toMatch(/completed|failed/);
  return queue.getJob(id);
};

it('equal settings share a runtime; the last of them to be released closes it, and the next one opens another', async () => {
  const options = settings();
  const [first, second] = [share(options), share({ ...options, databasePoolSize: 10 })];
  expect(second.runtime).toBe(first.runtime);
  await first.release();
  await first.release();
  expect((await second.runtime.health()).postgres).toBeUndefined();
  await second.release();
  expect((await second.runtime.health()).postgres).toBeDefined();
  const third = share(options);
  expect(third.runtime).not.toBe(second.runtime);
  expect((await third.runtime.health()).postgres).toBeUndefined();
});

it('a processor has its connection to Postgres before its first job', async () => {
  const { runtime } = share({ ...settings(), prefix: uniquePrefix() });
  await expect.poll(() => runtime.db.pool.idleCount).toBe(1);
});

it.each([
  { tenant: 'acme' },
  { leaseTtlMs: 5_000 },
  { heartbeatMs: 500 },
  { databasePoolSize: 3 },
  { lingerMs: 0 },
  { maxBlockMs: 1_000 },
  { prefix: 'another' },
  { log: createLogger({ level: 'silent' }) },
])('settings that differ (%j) get a runtime of their own', (other) => {
  const options = settings();
  expect(share({ ...options, ...other }).runtime).not.toBe(share(options).runtime);
});

it.each([{ maxCrashes: 1 }, { resultTtlMs: 5 }])(
  '%j is the jobs’ and not the runtime’s, which keeps its own',
  (other) => {
    const options = settings();
    const { runtime } = share({ ...options, ...other });
    expect(runtime).toBe(share(options).runtime);
    expect(runtime.settings).toMatchObject({ maxCrashes: 5, resultTtlMs: 86_400_000 });
  },
);

it('ten processors cost one pool and three Redis connections, and each still ends by its own close', async () => {
  // Of a number of its own: other files use this Redis at the same time.
  const redisUrl = new URL(testRedisUrl());
  redisUrl.pathname = '/9';
  const options = { ...settings(), redisUrl: redisUrl.href, databasePoolSize: 4 };
  const redis = new Redis(testRedisUrl());
  onTestFinished(() => redis.disconnect());
  const opened = async () =>
    ((await redis.client('LIST')) as string).match(/name=oncefleet-(queue|publish|subscribe)\S* .* db=9 /g)?.length ??
    0;
  const before = await opened();
  const guards = Array.from({ length: 10 }, (_, i) => withIdempotency(async () => i, options));
  const served = guards.map((guarded, i) => serve(guarded, options.prefix, `shared-${i}`));
  const results = await Promise.all(served.map(async ({ queue }) => (await addAndWait(queue, {}, 'one'))?.returnvalue));
  expect(results).toEqual(guards.map((_, i) => i));
  expect((await opened()) - before).toBe(3);
  const { rows } = await file.pool.query(
    "select count(*)::int as n from pg_stat_activity where datname = current_database() and application_name ~ '^oncefleet .*:'",
  );
  expect(rows[0].n).toBeLessThanOrEqual(4);
  const [first, second] = served as [ReturnType<typeof serve>, ReturnType<typeof serve>];
  await first.worker.close();
  await guards[0]?.close();
  expect((await addAndWait(second.queue, {}, 'two'))?.returnvalue).toBe(1);
});

it('two guards on one runtime do not take each other’s run for their own', async () => {
  const runtime = new Runtime(settings());
  onTestFinished(() => runtime.close());
  const started = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  let runs = 0;
  const spec: JobSpec = {
    name: 'shared',
    queue: 'shared',
    policy: defineJob({ name: 'policy', input: z.object({}), run: async () => 1 }).policy,
    transparent: true,
    keyOf: () => 'the same',
    checkEvent: undefined,
    async handle() {
      runs++;
      started.resolve();
      await go.promise;
      return runs;
    },
  };
  const deferred: number[] = [];
  const delivery = (id: string) =>
    ({
      id,
      queueName: 'shared',
      queueQualifiedName: 'bull:shared',
      name: 'shared',
      data: {},
      opts: {},
      timestamp: Date.now(),
      attemptsMade: 0,
      attemptsStarted: 1,
      moveToDelayed: async (at: number) => void deferred.push(at),
      promote: async () => undefined,
    }) as never;
  const first = new Guard(runtime).deliver(delivery('1'), 't', undefined, spec);
  await started.promise;
  await expect(new Guard(runtime).deliver(delivery('2'), 't', undefined, spec)).rejects.toThrow(
    expect.objectContaining({ name: 'DelayedError' }),
  );
  go.resolve();
  expect(await first).toBe(1);
  expect([runs, deferred.length]).toEqual([1, 1]);
});

it('a processor takes the connections of a fleet, which stay when it closes', async () => {
  const hello = defineJob({ name: 'hello', input: z.object({}), run: async () => 'hello' });
  const fleet = createTestFleet(file.url, [hello]);
  const guarded = withIdempotency(async (job) => job.data.amount, { fleet });
  const { queue } = serve(guarded, uniquePrefix(), 'of-a-fleet');
  expect((await addAndWait(queue, { amount: 7, idempotencyKey: 'seven' }, 'a'))?.returnvalue).toBe(7);
  await guarded.close();
  expect((await fleet.find({ key: 'seven' })).jobs).toMatchObject([{ status: 'completed' }]);
});

it('what a fleet has decided is refused beside it, and so is what is no fleet', async () => {
  const fleet = createTestFleet(file.url, []);
  const wrap = (options: object) => () => withIdempotency(async () => 1, options as never);
  expect(wrap({ fleet, databaseUrl: file.url, leaseTtlMs: 5_000 })).toThrow(
    /databaseUrl: the fleet has its own.*leaseTtlMs: the fleet has its own/,
  );
  expect(wrap({ fleet: {} })).toThrow('fleet: expected what createFleet returns');
  expect(wrap({ fleet: 5 })).toThrow('fleet: expected what createFleet returns');
});

it('a delivery to a closed processor waits for another worker, and spends no attempt', async () => {
  const guarded = withIdempotency(async () => 1, settings());
  await guarded.close();
  const delayed: number[] = [];
  const job = { moveToDelayed: async (at: number) => void delayed.push(at) };
  await expect(guarded(job as never, 't')).rejects.toThrow(expect.objectContaining({ name: 'DelayedError' }));
  expect(delayed[0]).toBeGreaterThan(Date.now());
});

it('a fingerprint of one’s own leaves volatile fields out, and the processor still has them', async () => {
  const options = settings();
  const seen: unknown[] = [];
  const guarded = withIdempotency(
    async (job) => {
      seen.push(job.data);
      return 1;
    },
    {
      ...options,
      key: (job) => `order-${job.data.order}`,
      fingerprint: (data) => {
        delete data.requestedAt;
        return data;
      },
    },
  );
  const { queue } = serve(guarded, options.prefix, 'volatile');
  const states = [];
  for (const [i, data] of [
    { order: 1, requestedAt: 'a' },
    { order: 1, requestedAt: 'b' },
    { order: 1, cents: 5 },
  ].entries())
    states.push(await (await addAndWait(queue, data, `v${i}`))?.getState());
  expect(states).toEqual(['completed', 'completed', 'failed']);
  expect(seen).toEqual([{ order: 1, requestedAt: 'a' }]);
});

it.each([
  ['nothing', () => undefined],
  ['a promise', async () => 1],
  ['a function', () => () => 1],
])('a fingerprint that returns %s fails the job and says so', async (_what, fingerprint) => {
  const options = settings();
  const { queue } = serve(
    withIdempotency(async () => 1, { ...options, fingerprint }),
    options.prefix,
    'bad',
  );
  const job = await addAndWait(queue, {}, 'bad');
  expect(job?.failedReason).toContain('fingerprint: must return what of the data counts');
});

it('a worker of BullMQ 5 runs a key once, retries, and gets its result', async () => {
  const options = settings();
  let runs = 0;
  const guarded = withIdempotency(async (job) => {
    if (runs++ === 0) throw new Error('once');
    return job.data.amount as number;
  }, options);
  const connection = { url: testRedisUrl() };
  const { prefix } = options;
  const worker = new Worker5('five', guarded, { connection, prefix });
  const queue = new Queue5('five', { connection, prefix });
  onTestFinished(async () => {
    await Promise.all([worker.close(), queue.close()]);
    await guarded.close();
  });
  const data = { amount: 5, idempotencyKey: 'k' };
  const jobs = [
    await queue.add('charge', data, { attempts: 2, backoff: 1 }),
    await queue.add('charge', data, { attempts: 2 }),
  ];
  await expect
    .poll(() => Promise.all(jobs.map((job) => job.getState())), { timeout: 15_000 })
    .toEqual(['completed', 'completed']);
  const results = await Promise.all(jobs.map(async ({ id }) => (await queue.getJob(id ?? ''))?.returnvalue));
  expect([results, runs]).toEqual([[5, 5], 2]);
});

it('maintenance ends what no worker delivers any more, by the processors’ own maxCrashes, and sweeps', async () => {
  const options = { ...settings(), maxCrashes: 1, jobRetentionMs: 1_000, sweepMs: 0, reconcileMs: 100 };
  const { databaseUrl, redisUrl, prefix } = options;
  const guarded = withIdempotency(async () => 1, { databaseUrl, redisUrl, prefix, resultTtlMs: 0 });
  const { queue } = serve(guarded, prefix, 'kept');
  // Of an id made just now the sweep knows that its job is young.
  const old = await insertJob(file.db, { queue: 'kept', id: '01900000-0000-7000-8000-000000000001' });
  await file.pool.query(
    "update oncefleet.jobs set status = 'completed', finished_at = now() - interval '1 day', expires_at = now() - interval '1 hour' where id = $1",
    [old],
  );
  await file.pool.query('delete from oncefleet.unfinished_jobs where job_id = $1', [old]);
  const dead = await insertJob(file.db, { queue: 'kept' });
  await claimFree(file.db, dead);
  await file.db.updateTable('jobs').set({ crash_count: 1 }).where('id', '=', dead).execute();
  await expireLease(file.db, dead);
  await backdateJob(file.db, dead, 60_000);
  const upkeep = startMaintenance(options);
  onTestFinished(() => upkeep.close());
  await expect.poll(async () => (await rowOf(file.db, dead)).status, { timeout: 10_000 }).toBe('failed');
  expect(await upkeep.sweep()).toMatchObject({ removedJobs: 1, busy: false });
  await upkeep.close();
  await upkeep.close();
  // The processor's connections are the same ones, and stay.
  expect((await addAndWait(queue, {}, 'later'))?.returnvalue).toBe(1);
});
