/** The reconciler's rounds, called by hand, in a process that runs nothing. */
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { Runtime } from '../../src/idempotency/runtime.ts';
import { defineJob } from '../../src/index.ts';
import { Reconciler } from '../../src/workers/reconciler.ts';
import { claimFree, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

async function createReconciler() {
  const onPoison = vi.fn();
  const job = defineJob({ name: 'job', input: z.object({}), maxCrashes: 1, run: async () => 1, onPoison });
  const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
  onTestFinished(() => runtime.close());
  const announced: { run: { streamId: string }; end: boolean }[] = [];
  vi.spyOn(runtime.publisher, 'publish').mockImplementation((runs) => void announced.push(...runs));
  await expect.poll(() => runtime.redis.status).toBe('ready');
  const reconciler = new Reconciler({ runtime, jobs: new Map([[job.name, job]]), intervalMs: 1_000 });
  return {
    reconciler,
    onPoison,
    announcedOf: (id: string) => announced.filter(({ run }) => run.streamId === id),
    inRedis: async (id: string) => (await runtime.dispatcher.queue('job').getJob(id)) !== undefined,
  };
}

/** Moves the times of a row into the past. */
async function backdate(id: string, ms: number): Promise<void> {
  await sql`update jobs set run_at = run_at - ${ms}::float8 * interval '1 ms', created_at = created_at - ${ms}::float8 * interval '1 ms' where id = ${id}`.execute(
    file.db,
  );
}

describe('the reconciler', () => {
  it('dispatches what is due and Redis does not have, however long it has waited', async () => {
    const { reconciler, inRedis } = await createReconciler();
    const [recent, old] = [await insertJob(file.db), await insertJob(file.db)];
    await backdate(recent, 2_000);
    await backdate(old, 3_600_000);
    await reconciler.reconcile();
    expect([await inRedis(recent), await inRedis(old)]).toEqual([true, true]);
    expect([(await rowOf(file.db, recent)).status, (await rowOf(file.db, old)).status]).toEqual(['pending', 'pending']);
  });

  it('dispatches again what lost its worker', async () => {
    const { reconciler, inRedis } = await createReconciler();
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    await reconciler.reconcile();
    expect(await inRedis(id)).toBe(true);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1 });
  });

  it('leaves alone what runs', async () => {
    const { reconciler, inRedis, announcedOf } = await createReconciler();
    const running = await insertJob(file.db);
    await claimFree(file.db, running);
    await reconciler.reconcile();
    expect(await inRedis(running)).toBe(false);
    expect(announcedOf(running)).toEqual([]);
  });

  it('ends what crashed too often, with one terminal event and an alert, without any worker', async () => {
    const { reconciler, inRedis, onPoison, announcedOf } = await createReconciler();
    const id = await insertJob(file.db);
    for (let crash = 0; crash < 2; crash++) {
      await claimFree(file.db, id);
      await expireLease(file.db, id);
    }
    await reconciler.reconcile();
    await reconciler.reconcile();
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', crash_count: 2, fence: 3 });
    expect((await journalOf(file.db, id)).map(({ event }) => event)).toMatchObject([
      { type: 'error', error: { code: 'POISONED' } },
    ]);
    expect(announcedOf(id)).toMatchObject([{ end: true }]);
    expect(onPoison).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ jobId: id, crashes: 2 }));
    expect(await inRedis(id)).toBe(false);
  });

  it('ends waiting jobs that are cancelled or past their deadline', async () => {
    const { reconciler } = await createReconciler();
    const cancelled = await insertJob(file.db);
    await sql`update jobs set cancel_requested_at = clock_timestamp() where id = ${cancelled}`.execute(file.db);
    const late = await insertJob(file.db, { deadlineMs: 0, delayMs: 60_000 });
    await reconciler.reconcile();
    expect((await rowOf(file.db, cancelled)).status).toBe('cancelled');
    expect(await rowOf(file.db, late)).toMatchObject({
      status: 'failed',
      error: expect.stringContaining('DEADLINE_EXCEEDED'),
    });
    expect((await journalOf(file.db, late)).map(({ event }) => event.type)).toEqual(['error']);
  });

  it('does nothing while another process is at it', async () => {
    const { reconciler, inRedis } = await createReconciler();
    const id = await insertJob(file.db);
    await backdate(id, 2_000);
    await file.db.transaction().execute(async (trx) => {
      await sql`select pg_advisory_xact_lock(${0x6f6e6365})`.execute(trx);
      expect(await reconciler.reconcile()).toBeUndefined();
    });
    expect(await inRedis(id)).toBe(false);
    await reconciler.reconcile();
    expect(await inRedis(id)).toBe(true);
  });
});
