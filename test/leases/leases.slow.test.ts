/** Leases whose owners are blocked, slow, cut off from Postgres, or in a long transaction. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobContext } from '../../src/index.ts';
import { stepsJob } from '../helpers/crash-process.ts';
import { proxied, startDoomed } from '../helpers/doomed.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { interval: 20 };

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

/** Time left on a job's lease by the clock that decides, ms. */
async function leftOn(id: string): Promise<number> {
  const { rows } = await sql<{ left_ms: number }>`
    select extract(epoch from lease_expires_at - clock_timestamp())::float8 * 1000 as left_ms from oncefleet.jobs where id = ${id}`.execute(
    file.db,
  );
  return rows[0]?.left_ms ?? Number.NaN;
}

/** Resolves when a job's lease has been renewed. */
async function renewed(id: string): Promise<void> {
  const until = async () => (await rowOf(file.db, id)).lease_expires_at?.getTime();
  const before = await until();
  await expect.poll(until, WAIT).not.toBe(before);
}

/** A job that says when it runs and when it is aborted, in a fleet whose Postgres is behind a proxy. */
async function runBehindProxy(options: { leaseTtlMs: number; heartbeatMs: number }) {
  const running = Promise.withResolvers<JobContext>();
  const go = Promise.withResolvers<void>();
  const aborted = Promise.withResolvers<number>();
  const job = defineJob({
    name: 'steady',
    input: z.object({}),
    async run(_input, ctx) {
      if (ctx.fence > 1) return 'again';
      ctx.signal.addEventListener('abort', () => void leftOn(ctx.jobId).then(aborted.resolve));
      running.resolve(ctx);
      await go.promise;
      return 'steady';
    },
  });
  const { proxy, url } = await proxied(file.url);
  const fleet = createTestFleet(url, [job], options);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  const ctx = await running.promise;
  return { proxy, handle, id: handle.id, ctx, go, aborted: aborted.promise };
}

describe('a lease', () => {
  it('is kept for as long as its owner renews it, whatever a transaction of the owner holds', async () => {
    const prefix = uniquePrefix();
    const job = defineJob({
      name: 'long-transaction',
      input: z.object({}),
      run: (_input, ctx) =>
        ctx.transaction(async (trx) => {
          // Longer than two leases; Postgres ends it if it is idle for one.
          for (let i = 0; i < 28; i++) await sql`select pg_sleep(0.5)`.execute(trx);
          return ctx.fence;
        }),
    });
    const options = { prefix, leaseTtlMs: 6_000, heartbeatMs: 500 };
    const [owner, other] = [createTestFleet(file.url, [job], options), createTestFleet(file.url, [job], options)];
    await owner.work();
    await other.work();
    const handle = await owner.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(1);
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, crash_count: 0, interruption_count: 0 });
  });

  it('that is shorter than the heartbeat is renewed all the same', async () => {
    const job = defineJob({
      name: 'short-lease',
      input: z.object({}),
      lease: { ttlMs: 6_000 },
      async run(_input, ctx) {
        await delay(13_000);
        return ctx.fence;
      },
    });
    const fleet = createTestFleet(file.url, [job], { leaseTtlMs: 60_000, heartbeatMs: 20_000 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(1);
    expect(await rowOf(file.db, handle.id)).toMatchObject({ crash_count: 0, interruption_count: 0 });
  });

  it('is not lost with a connection: the next renewal gets through', async () => {
    const { proxy, handle, id, ctx, go } = await runBehindProxy({ leaseTtlMs: 10_000, heartbeatMs: 300 });
    proxy.set({ kind: 'cut' });
    // Several renewals have failed when some heartbeats are gone.
    await expect.poll(() => leftOn(id), WAIT).toBeLessThan(8_500);
    proxy.set({ kind: 'open' });
    for (let renewals = 0; renewals < 3; renewals++) await renewed(id);
    expect(ctx.signal.aborted).toBe(false);
    go.resolve();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('steady');
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, interruption_count: 0 });
  });

  it('that cannot be renewed outlives its run: nobody could have it yet when the run is aborted', async () => {
    const { proxy, handle, go, aborted } = await runBehindProxy({ leaseTtlMs: 5_000, heartbeatMs: 500 });
    proxy.set({ kind: 'hold' });
    expect(await aborted).toBeGreaterThan(0);
    proxy.set({ kind: 'open' });
    go.resolve();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('again');
  });

  it('outlives its run also where the answer to the last renewal came late', async () => {
    const { proxy, handle, id, go, aborted } = await runBehindProxy({ leaseTtlMs: 6_000, heartbeatMs: 2_000 });
    // From then on the thread that renews is connected.
    await renewed(id);
    const told = renewed(id);
    proxy.set({ kind: 'mute' });
    await told;
    // Later than the time that a run is given to stop in, sooner than a renewal is given up.
    await delay(1_200);
    proxy.set({ kind: 'open' });
    proxy.set({ kind: 'hold' });
    expect(await aborted).toBeGreaterThan(0);
    proxy.set({ kind: 'open' });
    go.resolve();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('again');
  });

  it('of a handler that blocks the event loop for two leases is kept, and the handler is told nothing else', async () => {
    const prefix = uniquePrefix();
    // One blocks, the other would take over.
    for (let i = 0; i < 2; i++)
      await startDoomed({ databaseUrl: file.url, prefix, leaseTtlMs: 3_000, heartbeatMs: 500 });
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const handle = await fleet.enqueue(stepsJob, { how: 'block' });
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'block', aborted: false });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, crash_count: 0, interruption_count: 0 });
  });

  it('is let alone once its job has ended, though its owner does not know that yet', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const options = { databaseUrl: file.url, prefix, leaseTtlMs: 60_000, heartbeatMs: 200 };
    const worker = await startDoomed({ ...options, point: 'settle.after', signal: 'BLOCK' });
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    await worker.told('blocked');
    const before = await rowOf(file.db, handle.id);
    expect(before.status).toBe('completed');
    // The thread goes on, and has asked since.
    const { rows } = await sql<{ at: Date }>`select clock_timestamp() as at`.execute(file.db);
    const renewed = async () => {
      const asked = await sql<{ n: number }>`
        select count(*)::int as n from pg_stat_activity
        where datname = current_database() and application_name = 'oncefleet-leases' and state = 'idle' and query_start > ${rows[0]?.at}`.execute(
        file.db,
      );
      return asked.rows[0]?.n;
    };
    await expect.poll(renewed, WAIT).toBe(1);
    expect(await rowOf(file.db, handle.id)).toEqual(before);
    worker.child.stdin?.write('\n');
    await expect.poll(() => (fleet.queues[0] as Queue).getJobState(handle.id), WAIT).toBe('completed');
    await worker.ping();
    // A renewal of a job that has ended would be an error, of all leases that it renews.
    expect(worker.log).not.toContain('heartbeat failed; trying again');
  });
});

describe('a lease whose run is over', () => {
  it('is not renewed any more, nor in the way of others, though its outcome had to be said again', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const options = { databaseUrl: url, prefix, leaseTtlMs: 60_000, heartbeatMs: 200 };
    const worker = await startDoomed({ ...options, point: 'settle.before', signal: 'SIGSTOP' });
    const other = await fleet.enqueue(stepsJob, { how: 'wait-silent' });
    await worker.told('running');
    const handle = await fleet.enqueue(stepsJob, { how: 'silent' });
    await worker.stopped();
    proxy.set({ kind: 'cut' });
    worker.wake();
    await worker.said('outcome not committed; trying again');
    proxy.set({ kind: 'open' });
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'silent' });
    // One statement renews all; the row of a job that has ended takes no lease, and would fail it.
    for (let renewals = 0; renewals < 2; renewals++) await renewed(other.id);
  });
});

describe('deliveries of one job that Postgres hears of together', () => {
  it('are one run; the others wait for it', async () => {
    const prefix = uniquePrefix();
    const go = Promise.withResolvers<void>();
    let runs = 0;
    const job = defineJob({
      name: 'together',
      input: z.object({ counts: z.boolean() }),
      async run({ counts }) {
        if (counts) runs++;
        await go.promise;
      },
    });
    const { proxy, url } = await proxied(file.url);
    const fleet = createTestFleet(file.url, [job], { prefix });
    const worker = createTestFleet(url, [job], { prefix, leaseTtlMs: 60_000, heartbeatMs: 20_000, concurrency: 20 });
    await worker.work();
    const queue = fleet.queues[0] as Queue;
    await expect.poll(() => queue.getWorkersCount(), WAIT).toBe(1);
    const wanted = await fleet.enqueue(job, { counts: true }, { delayMs: 600_000 });
    proxy.set({ kind: 'hold' });
    // A claim that is under way makes the next ones wait for each other.
    for (let n = 1; n <= 3; n++) {
      await fleet.enqueue(job, { counts: false });
      await expect.poll(() => queue.getActiveCount(), WAIT).toBe(n);
    }
    const data = { oncefleet: 1, jobId: wanted.id, key: null };
    await queue.addBulk(
      Array.from({ length: 8 }, (_, n) => ({ name: 'together', data, opts: { jobId: `${n}-${wanted.id}` } })),
    );
    await expect.poll(() => queue.getActiveCount(), WAIT).toBe(11);
    // It becomes due for all of them at once; before, each claim would put its delivery off.
    await sql`update oncefleet.jobs set run_at = clock_timestamp() where id = ${wanted.id}`.execute(file.db);
    proxy.set({ kind: 'open' });
    await expect.poll(() => queue.getDelayedCount(), WAIT).toBe(8);
    expect(runs).toBe(1);
    go.resolve();
    await wanted.result({ timeoutMs: 60_000 });
    expect(runs).toBe(1);
    expect(await rowOf(file.db, wanted.id)).toMatchObject({ fence: 1, crash_count: 0 });
  });
});

describe('a worker that Postgres does not take anything from', () => {
  it('is held up at its high water mark, and goes on when Postgres is back', async () => {
    const text = 'x'.repeat(500_000);
    let emitted = 0;
    const running = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'flood',
      input: z.object({}),
      async run(_input, ctx) {
        running.resolve();
        await go.promise;
        while (emitted < 60) {
          await ctx.emit({ type: 'text', n: emitted, text });
          emitted++;
        }
      },
    });
    const { proxy, url } = await proxied(file.url);
    const fleet = createTestFleet(url, [job], { leaseTtlMs: 60_000, heartbeatMs: 20_000 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await running.promise;
    proxy.set({ kind: 'cut' });
    go.resolve();
    // 16 Mi characters are buffered and no more.
    await expect.poll(() => emitted, WAIT).toBe(33);
    expect((await rowOf(file.db, handle.id)).status).toBe('running');
    expect(emitted).toBe(33);
    proxy.set({ kind: 'open' });
    await handle.result({ timeoutMs: 60_000 });
    const { rows } = await sql<{ n: number }>`
      select count(*)::int as n from oncefleet.journal_events where stream_id = ${handle.id}`.execute(file.db);
    expect(rows[0]?.n).toBe(61);
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, crash_count: 0, interruption_count: 0 });
  });
});
