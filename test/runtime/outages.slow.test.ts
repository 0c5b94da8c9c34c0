import type { Queue } from 'bullmq';
import { type CompiledQuery, sql } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { type AnyJobDefinition, defineJob } from '../../src/index.ts';
import { connectionLost } from '../helpers/faulty-db.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { startTestPostgres, startTestRedis } from '../helpers/services.ts';

const file = useDatabase();

/** A fleet on a Postgres that the test may stop and start again. */
async function onOwnPostgres(jobs: AnyJobDefinition[]) {
  const { postgres, stop } = await startTestPostgres();
  onTestFinished(stop);
  const db = createDb({ url: postgres.url, maxConnections: 3, applicationName: 'test', onError: () => undefined });
  onTestFinished(() => db.close());
  await migrate(db.kysely);
  return { postgres, db: db.kysely, fleet: createTestFleet(postgres.url, jobs) };
}

describe('Postgres goes away', () => {
  it('before a claim: the delivery comes back by itself and spends no attempt', async () => {
    let runs = 0;
    const job = defineJob({ name: 'at-claim', input: z.object({}), attempts: 1, run: async () => ++runs });
    const { postgres, fleet } = await onOwnPostgres([job]);
    const handle = await fleet.enqueue(job, {});
    await postgres.stop();
    await fleet.work();
    const queue = fleet.queues[0] as Queue;
    await expect.poll(() => queue.getDelayedCount()).toBe(1);
    expect(runs).toBe(0);
    await postgres.start();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(1);
    expect(await fleet.get(handle.id)).toMatchObject({ status: 'completed', errorCount: 0, crashCount: 0, fence: 1 });
  });

  it('after it committed a claim and before it said so: the next delivery goes on with that claim', async () => {
    const job = defineJob({ name: 'lost-answer', input: z.object({}), run: async (_input, ctx) => ctx.fence });
    const fleet = createTestFleet(file.url, [job], { leaseTtlMs: 60_000, heartbeatMs: 20_000 });
    let lost = 0;
    const execute = fleet.db.executeQuery.bind(fleet.db);
    vi.spyOn(fleet.db, 'executeQuery').mockImplementation(async (query, options) => {
      const result = await execute(query as CompiledQuery, options);
      if ((query as CompiledQuery).sql.includes('oncefleet_claim_fresh') && lost++ === 0) throw connectionLost();
      return result as never;
    });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(1);
    expect(lost).toBeGreaterThan(1);
    expect(await fleet.get(handle.id)).toMatchObject({ fence: 1, crashCount: 0, deferralCount: 0 });
  });

  it('while a job streams: events are held, the lease survives, and the stream goes on', async () => {
    const away = Promise.withResolvers<void>();
    const back = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'in-stream',
      input: z.object({}),
      async run(_input, ctx) {
        for (let i = 0; i < 10; i++) await ctx.emit({ type: 'n', i });
        await ctx.flush();
        away.resolve();
        for (let i = 10; i < 20; i++) await ctx.emit({ type: 'n', i });
        await back.promise;
        return 'streamed';
      },
    });
    const { postgres, db, fleet } = await onOwnPostgres([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await away.promise;
    await postgres.stop();
    back.resolve();
    // The run has ended; its outcome waits for Postgres.
    await postgres.start();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('streamed');
    expect((await journalOf(db, handle.id)).map(({ event }) => event.i ?? event.type)).toEqual([
      ...Array.from({ length: 20 }, (_, i) => i),
      'end',
    ]);
    expect(await fleet.get(handle.id)).toMatchObject({ fence: 1, crashCount: 0 });
  });

  it('longer than the lease: the run is aborted before anybody else could claim, and runs again; nothing crashed', async () => {
    let reason: { code?: string } | undefined;
    const running = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'past-lease',
      input: z.object({}),
      lease: { ttlMs: 4_000 },
      async run(_input, ctx) {
        if (ctx.attempt > 1) return `attempt ${ctx.attempt}`;
        running.resolve();
        await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
        reason = ctx.signal.reason as typeof reason;
        throw ctx.signal.reason;
      },
    });
    const { postgres, db, fleet } = await onOwnPostgres([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await running.promise;
    await postgres.stop();
    await expect.poll(() => reason?.code).toBe('LEASE_LOST');
    await postgres.start();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('attempt 2');
    expect((await journalOf(db, handle.id)).map(({ event }) => event.type)).toEqual(['attempt', 'end']);
    expect(await fleet.get(handle.id)).toMatchObject({ crashCount: 0, interruptionCount: 1 });
  });

  it('and the job says onStoreOutage run: it runs unguarded, and its outcome is stored afterwards', async () => {
    let runs = 0;
    const job = defineJob({
      name: 'unguarded',
      input: z.object({ n: z.number() }),
      onStoreOutage: 'run',
      async run(input, ctx) {
        runs++;
        await ctx.emit({ type: 'lost' });
        return { n: input.n, fence: ctx.fence, jobId: ctx.jobId, step: ctx.keyFor('mail') };
      },
    });
    const { postgres, db, fleet } = await onOwnPostgres([job]);
    const handle = await fleet.enqueue(job, { n: 5 });
    await postgres.stop();
    await fleet.work();
    await expect.poll(() => runs).toBe(1);
    await postgres.start();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({
      n: 5,
      fence: 0,
      // As a guarded run of it has them: who was sent the key knows it again.
      jobId: handle.id,
      step: `${handle.id}:mail`,
    });
    expect(runs).toBe(1);
    // What it emitted is gone: that is what the option gives up.
    expect(await journalOf(db, handle.id)).toEqual([]);
  });
});

describe('Redis goes away', () => {
  it('before an enqueue: the job is accepted, and dispatched when Redis is back', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const job = defineJob({ name: 'no-redis', input: z.object({}), run: async () => 'ran' });
    const fleet = createTestFleet(file.url, [job], { redisUrl: redis.url });
    await fleet.work();
    await redis.stop();
    const handle = await fleet.enqueue(job, {}, { key: 'k' });
    expect(handle.outcome).toBe('created');
    await redis.start();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('ran');
  });

  it('while a job streams: its followers read from Postgres and miss nothing', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const away = Promise.withResolvers<void>();
    const running = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'stream-without-redis',
      input: z.object({}),
      async run(_input, ctx) {
        await ctx.emit({ type: 'n', i: 0 });
        running.resolve();
        await away.promise;
        for (let i = 1; i < 50; i++) await ctx.emit({ type: 'n', i });
      },
    });
    const fleet = createTestFleet(file.url, [job], { redisUrl: redis.url });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    const seen: unknown[] = [];
    const following = (async () => {
      for await (const { event } of handle.events()) seen.push((event as { i?: number }).i ?? event.type);
    })();
    await running.promise;
    await redis.stop();
    away.resolve();
    await following;
    expect(seen).toEqual([...Array.from({ length: 50 }, (_, i) => i), 'end']);
    await redis.start();
    expect(await handle.result()).toBeUndefined();
  });

  it('with all it knew (FLUSHALL): waiting, delayed and running jobs all reach their end', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const gate = Promise.withResolvers<void>();
    const running = Promise.withResolvers<void>();
    const runs = new Map<number, number>();
    const job = defineJob({
      name: 'flushed',
      input: z.object({ n: z.number() }),
      async run(input) {
        runs.set(input.n, (runs.get(input.n) ?? 0) + 1);
        running.resolve();
        await gate.promise;
        return input.n;
      },
    });
    const fleet = createTestFleet(file.url, [job], { redisUrl: redis.url, concurrency: 1 });
    await fleet.work();
    const handles = await Promise.all([0, 1, 2].map((n) => fleet.enqueue(job, { n })));
    handles.push(await fleet.enqueue(job, { n: 3 }, { delayMs: 500 }));
    await running.promise;
    const { Redis } = await import('ioredis');
    const client = new Redis(redis.url);
    await client.flushall();
    client.disconnect();
    gate.resolve();
    expect(await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 60_000 })))).toEqual([0, 1, 2, 3]);
    expect([...runs.values()]).toEqual([1, 1, 1, 1]);
  });
});

describe('a transaction at the fence', () => {
  it('commits effects once; a run that lost its lease commits none', async () => {
    await sql`create table if not exists effects (job_id uuid, attempt integer)`.execute(file.db);
    const job = defineJob({
      name: 'effects',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      async run(_input, ctx) {
        await ctx.transaction(async (trx) => {
          await sql`insert into effects values (${ctx.jobId}, ${ctx.attempt})`.execute(trx);
          if (ctx.attempt === 1) throw new Error('rolled back');
        });
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await handle.result({ timeoutMs: 60_000 });
    const effects = await sql<{ attempt: number }>`select attempt from effects where job_id = ${handle.id}`.execute(
      file.db,
    );
    expect(effects.rows).toEqual([{ attempt: 2 }]);
  });

  it('with ctx.complete commits effects, last events, result and status together', async () => {
    await sql`create table if not exists effects (job_id uuid, attempt integer)`.execute(file.db);
    const job = defineJob({
      name: 'complete-in-transaction',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      async run(_input, ctx) {
        await ctx.emit({ type: 'said', attempt: ctx.attempt });
        await ctx.transaction(async (trx) => {
          await sql`insert into effects values (${ctx.jobId}, ${ctx.attempt})`.execute(trx);
          await ctx.complete(trx, { attempt: ctx.attempt });
          const seen = await sql<{ status: string }>`select status from oncefleet.jobs where id = ${ctx.jobId}`.execute(
            trx,
          );
          expect(seen.rows).toEqual([{ status: 'completed' }]);
          if (ctx.attempt === 1) throw new Error('after completing, before the commit');
        });
        return 'ignored';
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ attempt: 2 });
    const effects = await sql<{ attempt: number }>`select attempt from effects where job_id = ${handle.id}`.execute(
      file.db,
    );
    expect(effects.rows).toEqual([{ attempt: 2 }]);
    expect((await journalOf(file.db, handle.id)).map(({ event }) => [event.type, event.attempt])).toEqual([
      ['said', 1],
      ['retry', 1],
      ['attempt', 2],
      ['said', 2],
      ['end', undefined],
    ]);
    expect(await fleet.get(handle.id)).toMatchObject({ status: 'completed', fence: 2 });
  });
});
