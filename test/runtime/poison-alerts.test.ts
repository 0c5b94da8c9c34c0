/** What tells of poisoned jobs; what happens when processes die in the middle of it is in crash-points.slow.test.ts. */
import { Writable } from 'node:stream';
import { Queue, Worker } from 'bullmq';
import { sql } from 'kysely';
import { pino } from 'pino';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { takePoisonAlerts } from '../../src/db/poison-alerts.ts';
import { type AnyJobDefinition, defineJob, withIdempotency } from '../../src/index.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { PoisonAlerts, type PoisonedJob } from '../../src/runtime/poison-alerts.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };
const POISONED = 'job poisoned: it crashed or lost its worker too often';

beforeEach(async () => {
  await sql`truncate oncefleet.jobs, oncefleet.ended_attempts, oncefleet.stream_heads, oncefleet.journal_segments, oncefleet.reconciler_rounds, oncefleet.poison_alerts`.execute(
    file.db,
  );
});

type OnPoison = (job: PoisonedJob) => void | Promise<void>;

const define = (name: string, onPoison?: OnPoison) =>
  defineJob({
    name,
    input: z.object({}),
    maxCrashes: 1,
    run: async () => 1,
    ...(onPoison === undefined ? {} : { onPoison }),
  });

/** A job whose workers have died once more than they may. */
async function insertCrashed(name: string): Promise<string> {
  // At once: a worker that starts dispatches what waits.
  return file.db.transaction().execute(async (trx) => {
    const id = await insertJob(trx, { name, queue: name });
    await sql`update oncefleet.jobs set status = 'running', fence = 2, crash_count = 1, lease_owner = 'dead',
      lease_expires_at = clock_timestamp() - interval '1 s' where id = ${id}`.execute(trx);
    return id;
  });
}

/** An alert that somebody left behind and whose time has come. */
async function insertAlert(name: string, overrides: { calls?: number; queue?: string } = {}): Promise<string> {
  const { calls = 1, queue = name } = overrides;
  const id = uuidV7();
  await sql`insert into oncefleet.poison_alerts (job_id, fence, tenant, name, queue, crashes, calls, due_at)
    values (${id}, 3, 'acme', ${name}, ${queue}, 2, ${calls}, clock_timestamp())`.execute(file.db);
  return id;
}

const makeDue = () => sql`update oncefleet.poison_alerts set due_at = clock_timestamp()`.execute(file.db);

const alerts = () =>
  sql<{ job_id: string; calls: number; left_s: number }>`
    select job_id, calls, extract(epoch from due_at - clock_timestamp())::float8 as left_s from oncefleet.poison_alerts`
    .execute(file.db)
    .then(({ rows }) => rows);

function createRuntime(): { runtime: Runtime; said: string[] } {
  const said: string[] = [];
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      said.push((JSON.parse(line.toString()) as { msg: string }).msg);
      done();
    },
  });
  const log = pino({ level: 'warn' }, sink);
  const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix(), log });
  onTestFinished(() => runtime.close());
  return { runtime, said };
}

async function reconcile(runtime: Runtime, jobs: readonly AnyJobDefinition[]): Promise<void> {
  await expect.poll(() => runtime.redis.status).toBe('ready');
  await new Reconciler({ runtime, jobs: new Map(jobs.map((job) => [job.name, job])), intervalMs: 1_000 }).reconcile();
}

describe('onPoison', () => {
  it('that throws is called again after a while, until it resolves', async () => {
    const onPoison = vi.fn<OnPoison>().mockRejectedValueOnce(new Error('pager away')).mockResolvedValue(undefined);
    const job = define('throws', onPoison);
    const fleet = createTestFleet(file.url, [job], { reconcileMs: 100 });
    await fleet.work();
    const id = await insertCrashed('throws');
    await expect.poll(() => onPoison.mock.calls.length, WAIT).toBe(1);
    const [left] = await alerts();
    expect(left).toMatchObject({ job_id: id, calls: 1 });
    expect(left?.left_s).toBeGreaterThan(20);
    await makeDue();
    await expect.poll(alerts, WAIT).toEqual([]);
    expect(onPoison.mock.calls).toEqual(
      Array.from({ length: 2 }, () => [{ jobId: id, tenant: 'default', name: 'throws', crashes: 2 }]),
    );
  });

  it('that throws at once, not in a promise, is called again too', async () => {
    const onPoison = vi.fn<OnPoison>().mockImplementationOnce(() => {
      throw new Error('a mistake');
    });
    const { runtime, said } = createRuntime();
    await insertAlert('sync');
    expect(await runtime.poisonAlerts.lookAfter([define('sync', onPoison)])).toBe(1);
    expect(said).toEqual([POISONED, 'onPoison failed; it is called again later']);
    await makeDue();
    expect(await runtime.poisonAlerts.lookAfter([define('sync', onPoison)])).toBe(1);
    expect(onPoison).toHaveBeenCalledTimes(2);
    expect(await alerts()).toEqual([]);
  });

  it('of withIdempotency that throws is called again, though there is no reconciler', async () => {
    const onPoison = vi.fn<OnPoison>().mockRejectedValueOnce(new Error('pager away'));
    const prefix = uniquePrefix();
    const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix };
    const guarded = withIdempotency(async () => 1, { ...options, maxCrashes: 1, onPoison });
    const worker = new Worker('plain', guarded, { connection: { url: testRedisUrl() }, prefix });
    const queue = new Queue('plain', { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(async () => {
      await worker.close();
      await guarded.close();
      await queue.close();
    });
    const id = await insertCrashed('plain');
    const job = await queue.add('plain', { oncefleet: 1, jobId: id, key: null }, { jobId: id });
    await expect.poll(() => job.getState(), WAIT).toBe('failed');
    expect(onPoison).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ jobId: id }));
    // One of another queue is not its own, whatever its name.
    const other = await insertAlert('plain', { queue: 'other' });
    await makeDue();
    await expect.poll(async () => (await alerts()).map(({ job_id: jobId }) => jobId), WAIT).toEqual([other]);
    expect(onPoison).toHaveBeenCalledTimes(2);
  });

  it('that hangs holds up neither the reconciler nor other alerts, nor the end of the process', async () => {
    const { promise: never } = Promise.withResolvers<void>();
    const onPoison = vi.fn<OnPoison>().mockReturnValue(never);
    const other = vi.fn<OnPoison>();
    const fleet = createTestFleet(file.url, [define('hangs', onPoison), define('other', other)], { reconcileMs: 100 });
    await fleet.work();
    const hung = await insertCrashed('hangs');
    await expect.poll(() => onPoison.mock.calls.length, WAIT).toBe(1);
    const id = await insertCrashed('other');
    // Sooner than a hook that hangs is let go.
    await expect.poll(() => other.mock.calls.length, { ...WAIT, timeout: 10_000 }).toBe(1);
    expect((await rowOf(file.db, id)).status).toBe('failed');
    await fleet.close();
    expect(await alerts()).toMatchObject([{ job_id: hung, calls: 1 }]);
  });

  it('that takes too long is let go, and counts when it resolves after all', async () => {
    const { promise: slow, resolve } = Promise.withResolvers<void>();
    const { runtime, said } = createRuntime();
    const alerting = new PoisonAlerts({ db: file.db, log: runtime.log, callLimitMs: 20 });
    await insertAlert('slow');
    await alerting.lookAfter([define('slow', () => slow)]);
    expect(said).toEqual([POISONED, 'onPoison failed; it is called again later']);
    expect(await alerts()).toMatchObject([{ calls: 2 }]);
    resolve();
    await expect.poll(alerts, WAIT).toEqual([]);
  });

  it('is called for no more than twenty jobs at once, the others have their turn', async () => {
    const { promise: slow, resolve } = Promise.withResolvers<void>();
    const onPoison = vi.fn<OnPoison>().mockReturnValue(slow);
    const job = define('crowd', onPoison);
    const { runtime } = createRuntime();
    for (let i = 0; i < 25; i++) await insertAlert('crowd');
    const first = runtime.poisonAlerts.lookAfter([job]);
    await expect.poll(() => onPoison.mock.calls.length, WAIT).toBe(20);
    expect(await runtime.poisonAlerts.lookAfter([job])).toBe(0);
    const crashed = await insertCrashed('crowd');
    await reconcile(runtime, [job]);
    expect((await rowOf(file.db, crashed)).status).toBe('failed');
    expect(onPoison).toHaveBeenCalledTimes(20);
    resolve();
    expect(await first).toBe(20);
    expect(await runtime.poisonAlerts.lookAfter([job])).toBe(5);
    expect(await alerts()).toMatchObject([{ job_id: crashed, calls: 1 }]);
  });

  it('is called by no more than one of several workers, once a job', async () => {
    const onPoison = vi.fn<OnPoison>();
    const prefix = uniquePrefix();
    for (let i = 0; i < 3; i++)
      await createTestFleet(file.url, [define('many', onPoison)], { prefix, reconcileMs: 100 }).work();
    const ids = await Promise.all(Array.from({ length: 20 }, () => insertCrashed('many')));
    await expect.poll(() => onPoison.mock.calls.length, WAIT).toBeGreaterThanOrEqual(20);
    await expect.poll(alerts, WAIT).toEqual([]);
    expect(onPoison.mock.calls.map(([job]) => job.jobId).sort()).toEqual(ids.toSorted());
  });

  it('is called by one of two that look at the same moment', async () => {
    const onPoison = vi.fn<OnPoison>();
    const job = define('both', onPoison);
    const [one, two] = [createRuntime().runtime, createRuntime().runtime];
    for (let round = 0; round < 5; round++) {
      const ids = await Promise.all(Array.from({ length: 10 }, () => insertAlert('both')));
      onPoison.mockClear();
      const counts = await Promise.all([one.poisonAlerts.lookAfter([job]), two.poisonAlerts.lookAfter([job])]);
      // What is locked by the other is passed over, so between them they have it all.
      expect((counts[0] ?? 0) + (counts[1] ?? 0)).toBe(10);
      expect(onPoison.mock.calls.map(([told]) => told.jobId).sort()).toEqual(ids.toSorted());
      expect(await alerts()).toEqual([]);
    }
  });

  it('is not waited for by who meets an alert that another takes just now', async () => {
    const onPoison = vi.fn<OnPoison>();
    const job = define('taken', onPoison);
    const { runtime } = createRuntime();
    await insertAlert('taken');
    await file.db.transaction().execute(async (trx) => {
      expect(await takePoisonAlerts(trx, [job], 10)).toHaveLength(1);
      expect(await runtime.poisonAlerts.lookAfter([job])).toBe(0);
    });
    expect(await runtime.poisonAlerts.lookAfter([job])).toBe(0);
    expect(onPoison).not.toHaveBeenCalled();
  });

  it('is called by a process that has it, when one without the definition has ended the job', async () => {
    const onPoison = vi.fn<OnPoison>();
    const { runtime, said } = createRuntime();
    const id = await insertCrashed('elsewhere');
    await sql`update oncefleet.jobs set crash_count = 5 where id = ${id}`.execute(file.db);
    await reconcile(runtime, []);
    expect((await rowOf(file.db, id)).status).toBe('failed');
    expect(said).toEqual([POISONED]);
    await makeDue();
    const fleet = createTestFleet(file.url, [define('elsewhere', onPoison)], { reconcileMs: 100 });
    await fleet.work();
    await expect.poll(alerts, WAIT).toEqual([]);
    expect(onPoison).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ jobId: id, crashes: 6 }));
  });

  it('of a job that is redriven meanwhile is called all the same, with what it came to then', async () => {
    const onPoison = vi.fn<OnPoison>().mockRejectedValueOnce(new Error('pager away'));
    const job = define('redriven', onPoison);
    const { runtime } = createRuntime();
    const id = await insertCrashed('redriven');
    await reconcile(runtime, [job]);
    expect(onPoison).toHaveBeenCalledTimes(1);
    const fleet = createTestFleet(file.url, [job], { reconcileMs: 100 });
    await fleet.redrive(id);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', crash_count: 0 });
    await makeDue();
    await fleet.work();
    await expect.poll(alerts, WAIT).toEqual([]);
    expect(onPoison).toHaveBeenCalledTimes(2);
    expect(onPoison).toHaveBeenLastCalledWith({ jobId: id, tenant: 'default', name: 'redriven', crashes: 2 });
  });
});

describe('an alert', () => {
  it('whose definition nobody has is let alone: no call, no line, no change', async () => {
    const { runtime, said } = createRuntime();
    const id = await insertAlert('unknown');
    const before = await alerts();
    for (let look = 0; look < 5; look++) expect(await runtime.poisonAlerts.lookAfter([define('known')])).toBe(0);
    expect(said).toEqual([]);
    expect(await alerts()).toMatchObject([{ job_id: id, calls: before[0]?.calls }]);
  });

  it('of a job without onPoison is taken out at once, and logged', async () => {
    const { runtime, said } = createRuntime();
    const id = await insertCrashed('hookless');
    await reconcile(runtime, [define('hookless')]);
    await expect.poll(alerts, WAIT).toEqual([]);
    expect(said).toEqual([POISONED]);
    expect((await rowOf(file.db, id)).status).toBe('failed');
  });

  it('that was left behind is the taker’s for twice as long each time, up to an hour', async () => {
    await insertAlert('pauses');
    const pauses: number[] = [];
    for (let call = 2; call <= 10; call++) {
      expect(await takePoisonAlerts(file.db, [{ name: 'pauses', queue: 'pauses' }], 10)).toMatchObject([
        { calls: call, tenant: 'acme', crashes: 2, fence: 3 },
      ]);
      expect(await takePoisonAlerts(file.db, [{ name: 'pauses', queue: 'pauses' }], 10)).toEqual([]);
      pauses.push(Math.ceil((await alerts())[0]?.left_s ?? 0));
      await makeDue();
    }
    expect(pauses).toEqual([60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
  });

  it('that no call has got rid of is given up after thirty, with a last line', async () => {
    const onPoison = vi.fn<OnPoison>();
    const { runtime, said } = createRuntime();
    await insertAlert('hopeless', { calls: 30 });
    await runtime.poisonAlerts.lookAfter([define('hopeless', onPoison)]);
    expect(onPoison).not.toHaveBeenCalled();
    expect(said).toEqual(['onPoison given up: no call of it has resolved']);
    expect(await alerts()).toEqual([]);
  });

  it('that cannot be taken out is called again, and harms nobody', async () => {
    const onPoison = vi.fn<OnPoison>();
    const { runtime, said } = createRuntime();
    await insertAlert('stuck');
    await sql`create function stay() returns trigger language plpgsql as 'begin raise exception ''no''; end'`.execute(
      file.db,
    );
    await sql`create trigger stay before delete on oncefleet.poison_alerts execute function stay()`.execute(file.db);
    try {
      await runtime.poisonAlerts.lookAfter([define('stuck', onPoison)]);
    } finally {
      await sql`drop function stay cascade`.execute(file.db);
    }
    expect(said).toEqual([POISONED, 'poison alert not taken out: onPoison is called again']);
    await makeDue();
    await runtime.poisonAlerts.lookAfter([define('stuck', onPoison)]);
    expect(onPoison).toHaveBeenCalledTimes(2);
    expect(await alerts()).toEqual([]);
  });
});
