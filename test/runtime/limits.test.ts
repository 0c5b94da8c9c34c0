import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobOptions, RetryAfterError } from '../../src/index.ts';
import { queuePrefix } from '../../src/redis/connections.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const HOUR = 3_600_000;
const POLL = { timeout: 15_000, interval: 10 };

type Limits = NonNullable<JobOptions<z.ZodObject<{ key: z.ZodString }>, unknown, never>['limits']>;

/** A job whose runs a test lets go one by one, and what has run at once. */
function heldJob(limits: Limits, name = `limited-${uuidV7()}`) {
  const running = new Map<string, () => void>();
  const seen = { most: 0, started: [] as string[] };
  const job = defineJob({
    name,
    input: z.object({ key: z.string() }),
    limits,
    async run(_, ctx) {
      const { promise, resolve } = Promise.withResolvers<void>();
      running.set(ctx.jobId, resolve);
      seen.started.push(ctx.jobId);
      seen.most = Math.max(seen.most, running.size);
      await Promise.race([
        promise,
        new Promise((_, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason))),
      ]);
      running.delete(ctx.jobId);
    },
  });
  const letGo = (id: string) => running.get(id)?.();
  return { job, running, seen, letGo };
}

const byKey = ({ input }: { input: { key: string } }) => input.key;

describe('a job over its limit', () => {
  it('holds no slot, waits as delayed in BullMQ, and is woken by the end of another without the reconciler', async () => {
    const { job, running, seen, letGo } = heldJob([{ key: byKey, concurrency: 2 }]);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix, reconcileMs: HOUR, concurrency: 3 });
    const handles = [];
    for (let i = 0; i < 5; i++) handles.push(await fleet.enqueue(job, { key: 'a' }));
    const other = await fleet.enqueue(job, { key: 'b' });
    await fleet.work();
    // Three slots: two of key a, and the third is not taken up by those of a that wait.
    await expect.poll(() => running.has(other.id), POLL).toBe(true);
    const waiting = handles.slice(2).map(({ id }) => id);
    await expect
      .poll(async () => Promise.all(waiting.map(async (id) => (await rowOf(file.db, id)).limited_count)), POLL)
      .toEqual([1, 1, 1]);
    expect(await fleet.get(waiting[0] as string)).toMatchObject({ status: 'pending', limitedCount: 1, fence: 0 });
    for (const { id } of handles) {
      await expect.poll(() => running.has(id), POLL).toBe(true);
      letGo(id);
    }
    letGo(other.id);
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    expect(seen.most).toBe(3);
    const order = seen.started.filter((id) => id !== other.id);
    expect(order).toEqual(handles.map(({ id }) => id));
    // No polling: each met its limit a few times at most.
    for (const { id } of handles) expect((await rowOf(file.db, id)).limited_count).toBeLessThanOrEqual(2);
  });

  it('whose wake was lost is found by the reconciler', async () => {
    const { job, running, letGo } = heldJob([{ key: byKey, concurrency: 1 }]);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix, reconcileMs: HOUR });
    const [first, second] = [await fleet.enqueue(job, { key: 'a' }), await fleet.enqueue(job, { key: 'a' })];
    await fleet.work();
    await expect.poll(async () => (await rowOf(file.db, second.id)).limited_count, POLL).toBe(1);
    // As a process does that dies between the outcome and the wake.
    await sql`update oncefleet.jobs set status = 'completed', result = 'null', lease_owner = null, lease_expires_at = null,
      finished_at = clock_timestamp() where id = ${first.id}`.execute(file.db);
    const reconciling = createTestFleet(file.url, [job], { prefix, reconcileMs: 100 });
    await reconciling.work();
    await expect.poll(() => running.has(second.id), POLL).toBe(true);
    letGo(second.id);
    letGo(first.id);
    await second.result({ timeoutMs: 20_000 });
  });

  it('survives a flush of Redis while it waits', async () => {
    const { job, running, letGo } = heldJob([{ key: byKey, concurrency: 1 }]);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix });
    const [first, second] = [await fleet.enqueue(job, { key: 'a' }), await fleet.enqueue(job, { key: 'a' })];
    await fleet.work();
    await expect.poll(async () => (await rowOf(file.db, second.id)).limited_count, POLL).toBe(1);
    const redis = new Redis(testRedisUrl());
    onTestFinished(() => redis.disconnect());
    const keys = await redis.keys(`*${prefix}*`);
    await redis.del(...keys);
    letGo(first.id);
    await expect.poll(() => running.has(second.id), POLL).toBe(true);
    letGo(second.id);
    await second.result({ timeoutMs: 20_000 });
  });

  it('of a rate starts when the window has room again, without the reconciler', async () => {
    const starts: number[] = [];
    const job = defineJob({
      name: `paced-${uuidV7()}`,
      input: z.object({}),
      limits: [{ key: () => 'k', rate: { max: 2, perMs: 400 } }],
      run: () => void starts.push(performance.now()),
    });
    const fleet = createTestFleet(file.url, [job], { reconcileMs: HOUR });
    await fleet.work();
    const handles = await Promise.all(Array.from({ length: 7 }, () => fleet.enqueue(job, {})));
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    const { rows } = await sql<{ at: number }>`
      select extract(epoch from claimed_at)::float8 * 1000 as at from oncefleet.jobs where name = ${job.name} order by 1`.execute(
      file.db,
    );
    const times = rows.map(({ at }) => at);
    for (const [i, at] of times.entries()) if (i >= 2) expect(at - (times[i - 2] as number)).toBeGreaterThan(399);
  });

  it('that another BullMQ client added has the same limit', async () => {
    const { job, running, seen, letGo } = heldJob([{ key: byKey, concurrency: 1 }]);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix, reconcileMs: HOUR });
    await fleet.work();
    const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
    const queue = new Queue(job.queue, { connection, prefix: queuePrefix(prefix, job.queue, false) });
    onTestFinished(async () => {
      await queue.close();
      connection.disconnect();
    });
    for (let i = 0; i < 3; i++) await queue.add(job.name, { key: 'a' });
    for (let i = 1; i <= 3; i++) {
      await expect.poll(() => seen.started.length, POLL).toBe(i);
      letGo([...running.keys()][0] as string);
    }
    expect(seen.most).toBe(1);
  });
});

describe('limits of a tenant', () => {
  it('hold for jobs without limits of their own, are raised for those that wait, and taken back', async () => {
    const { job, running, seen, letGo } = heldJob([]);
    const tenant = `tenant-${uuidV7()}`;
    const fleet = createTestFleet(file.url, [job], { reconcileMs: HOUR });
    await fleet.setTenantLimits(tenant, { concurrency: 1, weight: 2 });
    expect(await fleet.tenantLimits()).toContainEqual({ tenant, concurrency: 1, rate: null, weight: 2 });
    const handles = await Promise.all(Array.from({ length: 4 }, () => fleet.enqueue(job, { key: 'a' }, { tenant })));
    await fleet.work();
    const waiting = async () => {
      const rows = await Promise.all(handles.map(({ id }) => rowOf(file.db, id)));
      return rows.filter((row) => row.limited_count > 0).length;
    };
    await expect.poll(waiting, POLL).toBe(3);
    await fleet.setTenantLimits(tenant, { concurrency: 2 });
    await expect.poll(() => running.size, POLL).toBe(2);
    await fleet.setTenantLimits(tenant, { concurrency: null, weight: null });
    await expect.poll(() => running.size, POLL).toBe(4);
    expect(await fleet.tenantLimits()).not.toContainEqual(expect.objectContaining({ tenant }));
    for (const { id } of handles) letGo(id);
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    expect(seen.most).toBe(4);
  });
});

describe('a handler that is told to come back later', () => {
  it.each(['key', 'queue'] as const)('has the jobs of its %s wait too', async (scope) => {
    const starts: string[] = [];
    const job = defineJob({
      name: `told-${uuidV7()}`,
      input: z.object({ key: z.string() }),
      limits: [{ key: byKey, concurrency: 1 }],
      run({ key }, ctx) {
        starts.push(`${key}${ctx.attempt}`);
        if (starts.length === 1) throw new RetryAfterError('429', 60_000, { scope });
      },
    });
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [job], { prefix, reconcileMs: HOUR });
    const told = await fleet.enqueue(job, { key: 'a' });
    await fleet.work();
    await expect.poll(async () => (await rowOf(file.db, told.id)).error_count, POLL).toBe(1);
    const [same, other] = [await fleet.enqueue(job, { key: 'a' }), await fleet.enqueue(job, { key: 'b' })];
    await expect.poll(async () => (await rowOf(file.db, same.id)).limited_count, POLL).toBe(1);
    if (scope === 'key') await other.result({ timeoutMs: 20_000 });
    else await expect.poll(async () => (await rowOf(file.db, other.id)).limited_count, POLL).toBe(1);
    expect(starts).toEqual(scope === 'key' ? ['a1', 'b1'] : ['a1']);
    await sql`update oncefleet.limit_keys set paused_until = clock_timestamp() where paused_until is not null`.execute(
      file.db,
    );
    const reconciling = createTestFleet(file.url, [job], { prefix, reconcileMs: 100 });
    await reconciling.work();
    await same.result({ timeoutMs: 20_000 });
  });
});
