/** Connections that go half-open: open on both sides, and nothing arrives any more. */
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { FaultProxy } from '../../chaos/proxy.ts';
import { createDb, type Db } from '../../src/db/client.ts';
import { finishAbandoned } from '../../src/db/jobs/finish.ts';
import { type AnyJobDefinition, defineJob } from '../../src/index.ts';
import { ChannelHub, streamChannel } from '../../src/journal/channel.ts';
import { LiveKey } from '../../src/journal/seal.ts';
import { silentLogger } from '../../src/log.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { connectRedis } from '../../src/redis/connections.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { backdateJob, insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

/** A proxy before a server, and the URL through it. */
async function proxied(url: string): Promise<{ proxy: FaultProxy; url: string }> {
  const target = new URL(url);
  const proxy = await FaultProxy.start({ host: target.hostname, port: Number(target.port) });
  onTestFinished(() => proxy.close());
  target.host = `127.0.0.1:${proxy.port}`;
  return { proxy, url: target.href };
}

async function fleetBehindProxies(jobs: AnyJobDefinition[]) {
  const postgres = await proxied(file.url);
  const redis = await proxied(testRedisUrl());
  const fleet = createTestFleet(postgres.url, jobs, {
    redisUrl: redis.url,
    leaseTtlMs: 6_000,
    heartbeatMs: 500,
    databasePoolSize: 3,
  });
  return { postgres: postgres.proxy, redis: redis.proxy, fleet };
}

describe('connections to Postgres that go half-open', () => {
  it('cost an outcome a moment, not a quarter of an hour', async () => {
    const running = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'half-open',
      input: z.object({}),
      run: async (_input, ctx) => {
        await ctx.emit({ type: 'begun' });
        await ctx.flush();
        running.resolve();
        await go.promise;
        return ctx.fence;
      },
    });
    const { postgres, fleet } = await fleetBehindProxies([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await running.promise;
    postgres.strand();
    go.resolve();
    await expect.poll(async () => (await rowOf(file.db, handle.id)).status).toBe('completed');
  });

  it('end a statement of a transaction, which then runs again, and cost the job no attempt', async () => {
    let calls = 0;
    const job = defineJob({
      name: 'half-open-effect',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      run: async (_input, ctx) =>
        ctx.transaction(async (trx) => {
          calls++;
          if (calls === 1) postgres.strand();
          await sql`select 1`.execute(trx);
          return calls;
        }),
    });
    const { postgres, fleet } = await fleetBehindProxies([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect.poll(async () => (await rowOf(file.db, handle.id)).result, { timeout: 60_000 }).toBe('2');
    expect(await rowOf(file.db, handle.id)).toMatchObject({ error_count: 0, crash_count: 0 });
  });

  it('are not mistaken for slow statements, nor for those that wait for a lock', async () => {
    const job = defineJob({
      name: 'slow',
      input: z.object({}),
      run: async (_input, ctx) => {
        await sql`select pg_sleep(4)`.execute(ctx.db);
        return ctx.attempt;
      },
    });
    const { fleet } = await fleetBehindProxies([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(1);
  });
});

describe('a pool whose connections to Postgres went half-open', () => {
  const pidOf = async (db: Db) => (await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db.kysely)).rows;

  it('waits for one of them, not for one after the other', async () => {
    const { proxy, url } = await proxied(file.url);
    const db = createDb({
      url,
      maxConnections: 3,
      applicationName: 'test',
      unansweredMs: 1_000,
      onError: () => undefined,
    });
    onTestFinished(() => db.close());
    await Promise.all([1, 2, 3].map(() => sql`select pg_sleep(0.1)`.execute(db.kysely)));
    expect(db.pool.idleCount).toBe(3);
    proxy.strand();
    await expect(pidOf(db)).rejects.toThrow();
    expect(await pidOf(db)).toHaveLength(1);
  });

  it('keeps those that have answered since', async () => {
    const { proxy, url } = await proxied(file.url);
    const db = createDb({
      url,
      maxConnections: 2,
      applicationName: 'test',
      unansweredMs: 1_000,
      onError: () => undefined,
    });
    onTestFinished(() => db.close());
    await pidOf(db);
    proxy.strand();
    const lost = pidOf(db);
    lost.catch(() => undefined);
    const pid = await pidOf(db);
    await expect(lost).rejects.toThrow();
    expect(await pidOf(db)).toEqual(pid);
  });
});

describe('a process whose connections to Postgres went half-open in a transaction', () => {
  it('keeps no row locked', async () => {
    const { proxy, url } = await proxied(file.url);
    const gone = createDb({ url, maxConnections: 1, applicationName: 'test', onError: () => undefined });
    onTestFinished(() => gone.close());
    const id = await insertJob(file.db);
    // Cut off when it has the row's lock: the rule's answer comes with it.
    const stranded = gone.kysely.withPlugin({
      transformQuery: ({ node }) => node,
      transformResult: async ({ result }) => {
        if ('reason' in (result.rows[0] ?? {})) proxy.strand();
        return result;
      },
    });
    const ending = finishAbandoned(stranded, id, { resultTtlMs: 1_000, maxCrashes: undefined, cancel: true });
    ending.catch(() => undefined);
    const isFree = async () =>
      (await sql`select id from oncefleet.jobs where id = ${id} for update skip locked`.execute(file.db)).rows.length;
    await expect.poll(isFree).toBe(0);
    await expect.poll(isFree, { timeout: 20_000 }).toBe(1);
    await expect(ending).rejects.toThrow();
    expect((await rowOf(file.db, id)).status).toBe('pending');
  });

  it('keeps no other from reconciling', async () => {
    const { proxy, url } = await proxied(file.url);
    const create = (databaseUrl: string) => {
      const runtime = new Runtime({ databaseUrl, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
      onTestFinished(() => runtime.close());
      return { runtime, reconciler: new Reconciler({ runtime, jobs: new Map(), intervalMs: 1_000 }) };
    };
    const [gone, other] = [create(url), create(file.url)];
    const stuck = Promise.withResolvers<undefined>();
    vi.spyOn(gone.runtime.dispatcher, 'identify').mockImplementation(() => {
      proxy.strand();
      return stuck.promise;
    });
    const round = gone.reconciler.reconcile();
    round.catch(() => undefined);
    await expect.poll(() => vi.mocked(gone.runtime.dispatcher.identify).mock.calls.length).toBe(1);
    await expect.poll(() => other.runtime.redis.status).toBe('ready');
    const lost = await insertJob(file.db);
    await backdateJob(file.db, lost, 60_000);
    expect(await other.reconciler.reconcile()).toBeUndefined();
    await expect.poll(() => other.reconciler.reconcile(), { timeout: 20_000 }).toBeGreaterThan(0);
    stuck.resolve(undefined);
    await expect(round).rejects.toThrow();
  });
});

describe('connections to Redis that go half-open', () => {
  it('are made anew: jobs are dispatched and run as before', async () => {
    const job = defineJob({ name: 'after', input: z.object({}), run: async () => 'ran' });
    const { redis, fleet } = await fleetBehindProxies([job]);
    await fleet.work();
    expect(await (await fleet.enqueue(job, {})).result({ timeoutMs: 60_000 })).toBe('ran');
    redis.strand();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('ran');
    await expect.poll(() => fleet.health()).toEqual({ postgres: undefined, redis: undefined });
  });

  it('are noticed by a connection that only listens', async () => {
    const { proxy, url } = await proxied(testRedisUrl());
    const redis = connectRedis(url, {
      cluster: false,
      name: 'subscribe',
      log: silentLogger(),
      autoResubscribe: false,
    }) as Redis;
    onTestFinished(() => redis.disconnect());
    await expect.poll(() => redis.status).toBe('ready');
    await redis.subscribe(uniquePrefix());
    proxy.strand();
    let closed = false;
    redis.once('close', () => {
      closed = true;
    });
    await expect.poll(() => closed).toBe(true);
    await expect.poll(() => redis.status).toBe('ready');
  });

  it('leave no subscription behind that was let go of while they were away', async () => {
    const prefix = uniquePrefix();
    const { proxy, url } = await proxied(testRedisUrl());
    const redis = connectRedis(url, {
      cluster: false,
      name: 'subscribe',
      log: silentLogger(),
      autoResubscribe: false,
    }) as Redis;
    const direct = new Redis(testRedisUrl());
    onTestFinished(() => {
      redis.disconnect();
      direct.disconnect();
    });
    await expect.poll(() => redis.status).toBe('ready');
    const hub = new ChannelHub({ redis, key: new LiveKey(file.db), prefix, log: silentLogger() });
    const listener = { onBatch: () => undefined, onGap: () => undefined };
    proxy.set({ kind: 'hold' });
    const let1 = hub.subscribe('one', listener);
    hub.subscribe('other', listener);
    // Its SUBSCRIBE is on the way; ioredis sends it again on the next connection.
    proxy.set({ kind: 'cut' });
    await expect.poll(() => redis.status).not.toBe('ready');
    let1();
    proxy.set({ kind: 'open' });
    const subscribed = async (stream: string) =>
      (await direct.pubsub('NUMSUB', streamChannel(prefix, stream)))[1] as number;
    await expect.poll(() => subscribed('other')).toBe(1);
    await expect.poll(() => hub.isLive('other')).toBe(true);
    await expect.poll(() => subscribed('one')).toBe(0);
  });
});
