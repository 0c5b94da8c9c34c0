/** Jobs that may not run again, and workers that die or freeze before they have ended them. */
import type { Job, Queue } from 'bullmq';
import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import type { CrashPoint } from '../../src/crash-points.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { poisonAlerts, type StepsInput, stepsJob } from '../helpers/crash-process.ts';
import { type Doomed, LONG_LEASE, proxied, startDoomed, withoutReconcilers } from '../helpers/doomed.ts';
import { claimOne, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

const typesOf = async (id: string) => (await journalOf(file.db, id)).map(({ event }) => event.type);

const passDeadline = (id: string) =>
  sql`update oncefleet.jobs set deadline_at = clock_timestamp() - interval '1 s' where id = ${id}`.execute(file.db);

const askForCancel = (id: string) =>
  sql`update oncefleet.jobs set cancel_requested_at = clock_timestamp() where id = ${id}`.execute(file.db);

/** A worker has run the job and died at `point`. */
async function lost(point: CrashPoint, how: StepsInput['how'] = 'return') {
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [stepsJob], { prefix });
  const worker = await startDoomed({ databaseUrl: file.url, prefix, point });
  const handle = await fleet.enqueue(stepsJob, { how });
  await worker.dead();
  return { fleet, prefix, id: handle.id, handle, queue: fleet.queues[0] as Queue };
}

/** Waits until nobody has the job any more, in BullMQ either. */
async function ended(fleet: Fleet, id: string): Promise<void> {
  await expect.poll(() => (fleet.queues[0] as Queue).getJobState(id), WAIT).toBe('failed');
}

describe('the delivery that comes back', () => {
  it.each([
    ['claim.before', 'CANCELLED', askForCancel],
    ['claim.before', 'DEADLINE_EXCEEDED', passDeadline],
    ['claim.after', 'CANCELLED', askForCancel],
    // It has lost as many workers as it may.
    ['claim.after', 'DEADLINE_EXCEEDED', passDeadline],
  ] as const)('to a job whose worker died at %s ends it as %s', async (point, code, stop) => {
    const { fleet, handle, id } = await lost(point);
    await stop(id);
    if (point === 'claim.after') await expireLease(file.db, id);
    await withoutReconcilers(file.db, async () => {
      await fleet.work();
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code });
    });
    await ended(fleet, id);
    expect(await typesOf(id)).toEqual([code === 'CANCELLED' ? 'cancelled' : 'error']);
    expect((await rowOf(file.db, id)).fence).toBe(point === 'claim.before' ? 1 : 2);
  });

  it('to a job that has killed too many workers ends it, with an alert', async () => {
    const { fleet, prefix, handle, id } = await lost('claim.after');
    await expireLease(file.db, id);
    await withoutReconcilers(file.db, async () => {
      const second = await startDoomed({ databaseUrl: file.url, prefix, point: 'claim.after' });
      await second.dead();
      await expireLease(file.db, id);
      await fleet.work();
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'POISONED' });
    });
    await ended(fleet, id);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', crash_count: 2, fence: 3 });
    expect(await typesOf(id)).toEqual(['error']);
    expect(poisonAlerts.filter((jobId) => jobId === id)).toHaveLength(1);
  });

  it.each(['settle.after', 'answer.before'] as const)(
    'to a job that failed before its worker died at %s fails again, and does not run',
    async (point) => {
      const { fleet, handle, id } = await lost(point, 'refuse');
      const before = await rowOf(file.db, id);
      expect(before).toMatchObject({ status: 'failed', fence: 1 });
      await fleet.work();
      await ended(fleet, id);
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toThrow('refused');
      expect(await rowOf(file.db, id)).toEqual(before);
      expect(await typesOf(id)).toEqual(['step', 'step', 'error']);
    },
  );

  it('to a job that the reconciler ended first repeats the failure, and a retry after that runs it again', async () => {
    const { fleet, prefix, handle, id, queue } = await lost('claim.after');
    await passDeadline(id);
    await expireLease(file.db, id);
    const reconciler = await startDoomed({ databaseUrl: file.url, prefix, role: 'reconciler' });
    await expect.poll(async () => (await rowOf(file.db, id)).status, WAIT).toBe('failed');
    await reconciler.end();
    await sql`update oncefleet.jobs set deadline_at = null where id = ${id}`.execute(file.db);
    await fleet.work();
    await ended(fleet, id);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', fence: 2 });
    await (await queue.getJob(id))?.retry('failed');
    await expect.poll(async () => (await rowOf(file.db, id)).status, WAIT).toBe('completed');
    expect(await handle.result()).toEqual({ how: 'return' });
    expect(await typesOf(id)).toEqual(['error', 'attempt', 'step', 'step', 'end']);
  });
});

describe('a delivery that froze just before it ends its job', () => {
  it('ends nothing that has ended meanwhile', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    const { id } = handle;
    await passDeadline(id);
    const options = { databaseUrl: file.url, prefix, ...LONG_LEASE, reconcileMs: 600_000 };
    const frozen = await withoutReconcilers(file.db, async () => {
      const worker = await startDoomed({ ...options, point: 'end.before', signal: 'SIGSTOP' });
      await worker.stopped();
      return worker;
    });
    const reconciler = await startDoomed({ databaseUrl: file.url, prefix, role: 'reconciler' });
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await reconciler.end();
    const before = await rowOf(file.db, id);
    frozen.wake();
    await ended(fleet, id);
    expect({ ...(await rowOf(file.db, id)), ended_at_delivery: null }).toEqual(before);
    expect(await typesOf(id)).toEqual(['error']);
  });

  /** Has met a job that had lost more workers than it may, if its owner were dead; but that wakes. */
  async function meetOwner(
    run: (stage: { fleet: Fleet; id: string; owner: Doomed; ender: Doomed; again: Job }) => Promise<void>,
  ) {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    // It has lost as many workers as it may.
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"wait"}' });
    await claimOne(file.db, id, { maxCrashes: 1 });
    await expireLease(file.db, id);
    const data = { oncefleet: 1, jobId: id, key: null };
    const queue = fleet.queues[0] as Queue;
    await queue.add('steps', data, { jobId: id });
    await withoutReconcilers(file.db, async () => {
      const owner = await startDoomed({ databaseUrl: file.url, prefix, leaseTtlMs: 60_000, heartbeatMs: 300 });
      await owner.told('running');
      owner.child.kill('SIGSTOP');
      await owner.stopped();
      await expireLease(file.db, id);
      const ender = await startDoomed({
        databaseUrl: file.url,
        prefix,
        ...LONG_LEASE,
        point: 'end.before',
        signal: 'SIGSTOP',
      });
      const again = await queue.add('steps', data, { jobId: `again-${id}` });
      await ender.stopped();
      owner.wake();
      const held = async () => ((await rowOf(file.db, id)).lease_expires_at?.getTime() ?? 0) > Date.now();
      await expect.poll(held, WAIT).toBe(true);
      await run({ fleet, id, owner, ender, again });
    });
  }

  it('leaves a job alone whose owner has come back', async () => {
    await meetOwner(async ({ fleet, id, owner, ender, again }) => {
      ender.wake();
      await expect.poll(() => again.getState(), WAIT).toBe('delayed');
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 2, crash_count: 1 });
      owner.order({ type: 'go' });
      expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'wait', stoppedEarly: false });
    });
  });

  it('leaves a job to be run whose owner has come back and let go of it', async () => {
    await meetOwner(async ({ fleet, id, owner, ender }) => {
      await owner.end();
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', crash_count: 1, interruption_count: 1 });
      ender.wake();
      await ender.told('running');
      ender.order({ type: 'go' });
      expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'wait', stoppedEarly: false });
      expect(await rowOf(file.db, id)).toMatchObject({ fence: 3, crash_count: 1 });
    });
  });
});

describe('a job that has lost as many workers as it may', () => {
  it('is left to the one that runs it, however often the reconciler looks', async () => {
    const { prefix, handle, id } = await lost('claim.after', 'wait');
    await expireLease(file.db, id);
    const worker = await startDoomed({ databaseUrl: file.url, prefix });
    await worker.told('running');
    const lastRound = async () => {
      const { rows } = await sql<{
        at: string;
      }>`select max(finished_at)::text as at from oncefleet.reconciler_rounds`.execute(file.db);
      return rows[0]?.at;
    };
    for (let round = 0; round < 2; round++) {
      const before = await lastRound();
      await expect.poll(lastRound, WAIT).not.toBe(before);
    }
    worker.order({ type: 'go' });
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'wait', stoppedEarly: false });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 2, crash_count: 1 });
  });
});

describe('a cancel', () => {
  it('reaches a run though its worker has lost Postgres: the row is asked once it answers', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const worker = await startDoomed({ databaseUrl: url, prefix, ...LONG_LEASE });
    const handle = await fleet.enqueue(stepsJob, { how: 'wait-silent' });
    await worker.told('running');
    proxy.set({ kind: 'cut' });
    await fleet.cancel(handle.id);
    // What stands in Redis is anybody's word: the run goes on until Postgres says the same.
    proxy.set({ kind: 'open' });
    await worker.told('stopped');
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'cancelled', fence: 1, interruption_count: 0 });
  });
});

describe('a cancel whose client died', () => {
  it('reaches the run with its next heartbeat', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const worker = await startDoomed({ databaseUrl: file.url, prefix, leaseTtlMs: 60_000, heartbeatMs: 300 });
    const handle = await fleet.enqueue(stepsJob, { how: 'wait' });
    await worker.told('running');
    const client = await startDoomed({ databaseUrl: file.url, prefix, role: 'client', point: 'cancel.asked' });
    client.order({ type: 'cancel', id: handle.id });
    await client.dead();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await typesOf(handle.id)).toEqual(['step', 'cancelled']);
  });

  it.each(['cancel.asked', 'cancel.ended'] as const)(
    'at %s ends a job that is not due for long, in BullMQ too',
    async (point) => {
      const prefix = uniquePrefix();
      const fleet = createTestFleet(file.url, [stepsJob], { prefix });
      const handle = await fleet.enqueue(stepsJob, { how: 'return' }, { delayMs: 600_000 });
      const client = await startDoomed({ databaseUrl: file.url, prefix, role: 'client', point });
      client.order({ type: 'cancel', id: handle.id });
      await client.dead();
      const read: string[] = [];
      const following = (async () => {
        for await (const { event } of handle.events()) read.push(event.type);
      })();
      await fleet.work();
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
      await ended(fleet, handle.id);
      expect(await typesOf(handle.id)).toEqual(['cancelled']);
      await following;
      expect(read).toEqual(['cancelled']);
    },
  );
});

describe('a redrive', () => {
  it('of a job that failed in silence leaves the failure where readers have seen it, though its client dies', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const worker = await fleet.work();
    const handle = await fleet.enqueue(stepsJob, { how: 'refuse-silent' });
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toThrow('refused');
    expect(await typesOf(handle.id)).toEqual([]);
    const seen: string[] = [];
    for await (const { json } of handle.events()) seen.push(json);
    await ended(fleet, handle.id);
    await worker.close();
    const client = await startDoomed({ databaseUrl: file.url, prefix, role: 'client', point: 'redrive.row' });
    client.order({ type: 'redrive', id: handle.id });
    await client.dead();
    // Asked again, it is not failed any more.
    await expect(fleet.redrive(handle.id)).rejects.toMatchObject({ code: 'JOB_NOT_FAILED' });
    await createTestFleet(file.url, [stepsJob], { prefix }).work();
    await expect.poll(async () => (await rowOf(file.db, handle.id)).status, WAIT).toBe('completed');
    for await (const { json } of fleet.follow(handle.id, { after: 0 })) seen.push(json);
    const journal = await journalOf(file.db, handle.id);
    expect(seen.map((json) => JSON.parse(json))).toEqual(journal.map(({ event }) => event));
    expect(journal.map(({ event }) => event.type)).toEqual(['error', 'attempt', 'step', 'end']);
    await expect(fleet.redrive(handle.id)).rejects.toMatchObject({ code: 'JOB_NOT_FAILED' });
    expect((await rowOf(file.db, handle.id)).status).toBe('completed');
  });
});

describe('a client killed while it starts an expired key anew', () => {
  it.each(['enqueue.row.before', 'enqueue.row.after', 'enqueue.dispatch.after'] as const)(
    'at %s: asking again gives one new job',
    async (point) => {
      const prefix = uniquePrefix();
      const fleet = createTestFleet(file.url, [stepsJob], { prefix });
      await fleet.work();
      const key = `anew-${point}`;
      const first = await fleet.enqueue(stepsJob, { how: 'return' }, { key });
      await first.result({ timeoutMs: 60_000 });
      const kept = await rowOf(file.db, first.id);
      // Until then the key gives the old outcome.
      expect(await fleet.enqueue(stepsJob, { how: 'return' }, { key })).toMatchObject({
        id: first.id,
        outcome: 'replayed',
      });
      await sql`update oncefleet.jobs set expires_at = clock_timestamp() - interval '1 s' where id = ${first.id}`.execute(
        file.db,
      );
      const client = await startDoomed({ databaseUrl: file.url, prefix, role: 'client', point });
      client.order({ type: 'enqueue', key, how: 'return' });
      await client.dead();
      const again = await fleet.enqueue(stepsJob, { how: 'return' }, { key });
      expect(again.id).not.toBe(first.id);
      expect(again.outcome === 'created').toBe(point === 'enqueue.row.before');
      expect(await again.result({ timeoutMs: 60_000 })).toEqual({ how: 'return' });
      const { jobs } = await fleet.find({ key });
      expect(jobs.map(({ id }) => id).toSorted()).toEqual([first.id, again.id].toSorted());
      // The old job keeps its outcome.
      expect(await rowOf(file.db, first.id)).toMatchObject({ status: 'completed', result: kept.result, fence: 1 });
    },
  );
});
