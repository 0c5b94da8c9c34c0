/**
 * A worker freezes at a crash point, and another claims its job and has not begun when it wakes:
 * nothing has been written over what it knows, so that the fence alone refuses what it writes.
 */
import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import type { CrashPoint } from '../../src/crash-points.ts';
import { claimJobs } from '../../src/db/jobs/claim.ts';
import { aheadJob, type StepsInput, stepsJob } from '../helpers/crash-process.ts';
import { type Doomed, LONG_LEASE, startDoomed, takeOver } from '../helpers/doomed.ts';
import { expireLease, journalOf, refusePoison, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const GIVEN_UP = 'run given up: its lease is lost';

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

/** A worker that has frozen itself at `point`, of a fleet that does not work. */
async function freeze(point: CrashPoint, how: StepsInput['how'], options: { skip?: number } = {}) {
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [stepsJob], { prefix, ...LONG_LEASE });
  const zombie = await startDoomed({
    databaseUrl: file.url,
    prefix,
    point,
    signal: 'SIGSTOP',
    ...LONG_LEASE,
    ...options,
  });
  const { id } = await fleet.enqueue(stepsJob, { how });
  return { fleet, zombie, id };
}

/** All there is of a job, but for how often its deliveries were put off. */
async function snapshot(id: string) {
  const { deferral_count: _, ...row } = await rowOf(file.db, id);
  const effects = await sql<{ n: number }>`select count(*)::int as n from effects where job_id = ${id}`.execute(
    file.db,
  );
  const attempts = await file.db.selectFrom('ended_attempts').selectAll().where('job_id', '=', id).execute();
  const head = await file.db.selectFrom('stream_heads').selectAll().where('stream_id', '=', id).execute();
  return { row, journal: await journalOf(file.db, id), effects: effects.rows, attempts, head };
}

async function wakeAndEnd(zombie: Doomed): Promise<void> {
  zombie.wake();
  await zombie.said(GIVEN_UP);
  // Its deliveries have been answered when it has ended.
  await zombie.end();
}

describe('a worker that wakes when its job is another’s', () => {
  it.each([
    ['claim.after', 'complete'],
    ['append.before', 'complete'],
    ['append.before', 'quiet'],
    ['checkpoint.before', 'complete'],
    ['settle.before', 'return'],
    ['settle.before', 'silent'],
    ['settle.before', 'throw'],
  ] as const)('at %s (%s) writes nothing', async (point, how) => {
    const { zombie, id } = await freeze(point, how);
    await zombie.stopped();
    await takeOver(file.db, id);
    const before = await snapshot(id);
    await wakeAndEnd(zombie);
    expect(await snapshot(id)).toEqual(before);
  });

  it.each([
    ['ctx.transaction', 'effect'],
    ['ctx.complete in a transaction of its own', 'own-transaction'],
  ] as const)('commits no effect through %s', async (_name, how) => {
    const { zombie, id } = await freeze('claim.after', how);
    await zombie.stopped();
    await takeOver(file.db, id);
    const before = await snapshot(id);
    await wakeAndEnd(zombie);
    expect(before.effects).toEqual([{ n: 0 }]);
    expect(await snapshot(id)).toEqual(before);
  });

  it('raises no fence but its own', async () => {
    await refusePoison(file.db);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob, aheadJob], { prefix });
    const zombie = await startDoomed({ databaseUrl: file.url, prefix, ...LONG_LEASE });
    const { id } = await fleet.enqueue(aheadJob, { how: 'poison' });
    await zombie.told('refused');
    zombie.child.kill('SIGSTOP');
    await zombie.stopped();
    await takeOver(file.db, id);
    const before = await snapshot(id);
    zombie.order({ type: 'go' });
    await wakeAndEnd(zombie);
    expect(await snapshot(id)).toEqual(before);
  });

  it.each([
    ['stream', { streamRetentionMs: 1_000 }],
    ['job', { streamRetentionMs: 1_000, jobRetentionMs: 1_000 }],
  ] as const)(
    'adds nothing to the stream when the other has finished it and retention removed the %s',
    async (_kind, limits) => {
      const { fleet, zombie, id } = await freeze('append.before', 'long', { skip: 20 });
      await zombie.stopped();
      await expireLease(file.db, id);
      // The frozen process may have swallowed what BullMQ would wake a worker with.
      const data = { oncefleet: 1, jobId: id, key: null };
      await fleet.queues[0]?.add('steps', data, { jobId: `again-${id}` });
      const worker = await fleet.work();
      expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'long' });
      await worker.close();
      await sql`update oncefleet.jobs set expires_at = clock_timestamp() where id = ${id}`.execute(file.db);
      const sweeper = createTestFleet(file.url, [stepsJob], limits);
      const left = async () => {
        const { rows } = await sql<{ job: unknown; head: unknown; segments: unknown }>`
        select (select json_agg(j) from oncefleet.jobs j where id = ${id}) as job,
          (select json_agg(h) from oncefleet.stream_heads h where stream_id = ${id}) as head,
          (select json_agg(s) from oncefleet.journal_segments s where stream_id = ${id}) as segments`.execute(file.db);
        return rows[0];
      };
      const isRemoved = async () => {
        await sweeper.sweep();
        const rows = await left();
        return ('jobRetentionMs' in limits ? rows?.job : rows?.segments) === null;
      };
      await expect.poll(isRemoved, { timeout: 20_000 }).toBe(true);
      const before = await left();
      await wakeAndEnd(zombie);
      expect(await left()).toEqual(before);
    },
  );

  it('is not told that its checkpoint was saved', async () => {
    const { zombie, id } = await freeze('checkpoint.before', 'last-checkpoint');
    await zombie.stopped();
    await takeOver(file.db, id);
    await wakeAndEnd(zombie);
    expect(zombie.words).not.toContain('saved');
    expect((await rowOf(file.db, id)).checkpoint).toBeNull();
  });

  it('hears of it at its next heartbeat, and leaves the new lease as it is', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const zombie = await startDoomed({ databaseUrl: file.url, prefix, leaseTtlMs: 60_000, heartbeatMs: 300 });
    const { id } = await fleet.enqueue(stepsJob, { how: 'wait-silent' });
    await zombie.told('running');
    zombie.child.kill('SIGSTOP');
    await zombie.stopped();
    await takeOver(file.db, id);
    const before = await snapshot(id);
    await wakeAndEnd(zombie);
    expect(await snapshot(id)).toEqual(before);
  });

  it('releases nothing that it was told to let go of', async () => {
    const { zombie, id } = await freeze('settle.before', 'wait-silent');
    await zombie.told('running');
    zombie.child.kill('SIGTERM');
    await zombie.stopped();
    await takeOver(file.db, id);
    const before = await snapshot(id);
    zombie.wake();
    await zombie.said(GIVEN_UP);
    await zombie.ended();
    expect(await snapshot(id)).toEqual(before);
  });

  it('while the claim of the other is being committed waits for it, and writes nothing', async () => {
    const { zombie, id } = await freeze('settle.before', 'wait-silent');
    await zombie.told('running');
    zombie.child.kill('SIGTERM');
    await zombie.stopped();
    await expireLease(file.db, id);
    const waiting = async () => {
      const { rows } = await sql<{ n: number }>`
        select count(*)::int as n from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`.execute(file.db);
      return rows[0]?.n;
    };
    await file.db.transaction().execute(async (trx) => {
      const request = { id, owner: 'successor', ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true };
      expect(await claimJobs(trx, [request], 'worker')).toMatchObject([{ decision: 'claimed' }]);
      zombie.wake();
      await expect.poll(waiting).toBe(1);
    });
    const before = await snapshot(id);
    await zombie.said(GIVEN_UP);
    await zombie.ended();
    expect(await snapshot(id)).toEqual(before);
  });

  it('goes on with a job that is still its own', async () => {
    const { fleet, zombie, id } = await freeze('claim.after', 'wait');
    await zombie.stopped();
    const other = await fleet.enqueue(stepsJob, { how: 'wait' });
    zombie.wake();
    await expect.poll(() => zombie.words.filter((word) => word === 'running').length, { timeout: 20_000 }).toBe(2);
    // Both emit in one turn of the event loop, so that one statement appends both.
    await takeOver(file.db, id);
    const before = await snapshot(id);
    zombie.order({ type: 'go' });
    await zombie.said(GIVEN_UP);
    expect(await fleet.result(other.id, { timeoutMs: 60_000 })).toEqual({ how: 'wait', stoppedEarly: false });
    expect(await rowOf(file.db, other.id)).toMatchObject({ fence: 1, interruption_count: 0, crash_count: 0 });
    await zombie.end();
    expect(await snapshot(id)).toEqual(before);
  });
});

describe('a job whose first claim is being committed', () => {
  it('keeps other deliveries out until then, and holds up no other job', async () => {
    const fleet = createTestFleet(file.url, [stepsJob], LONG_LEASE);
    const [queue] = fleet.queues;
    const { id } = await fleet.enqueue(stepsJob, { how: 'silent' });
    await file.db.transaction().execute(async (trx) => {
      const request = { id, owner: 'first', ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true };
      expect(await claimJobs(trx, [request], 'worker')).toMatchObject([{ decision: 'claimed' }]);
      const data = { oncefleet: 1, jobId: id, key: null };
      const again = await Promise.all(
        Array.from({ length: 8 }, (_, n) => queue?.add('steps', data, { jobId: `again-${n}-${id}` })),
      );
      await fleet.work();
      const states = () => Promise.all(again.map((job) => job?.getState()));
      await expect.poll(states).toContain('delayed');
      const other = await fleet.enqueue(stepsJob, { how: 'silent' });
      expect(await other.result({ timeoutMs: 60_000 })).toEqual({ how: 'silent' });
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', fence: 0 });
    });
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1, lease_owner: 'first' });
  });
});

describe('a worker that froze', () => {
  it('within its lease keeps its job: a second delivery waits for it', async () => {
    const { fleet, zombie, id } = await freeze('claim.after', 'return');
    await zombie.stopped();
    const [queue] = fleet.queues;
    const again = await queue?.add('steps', { oncefleet: 1, jobId: id, key: null }, { jobId: `again-${id}` });
    await fleet.work();
    await expect.poll(() => again?.getState(), { timeout: 20_000 }).toBe('delayed');
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1, crash_count: 0 });
    zombie.wake();
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0 });
  });

  it('in a transaction keeps others out until it has committed, and holds up no other job', async () => {
    const { fleet, zombie, id } = await freeze('transaction.commit.before', 'effect');
    await zombie.stopped();
    await expireLease(file.db, id);
    const [queue] = fleet.queues;
    const add = (n: number) =>
      queue?.add('steps', { oncefleet: 1, jobId: id, key: null }, { jobId: `again-${n}-${id}` });
    const again = await Promise.all(Array.from({ length: 8 }, (_, n) => add(n)));
    await fleet.work();
    const states = () => Promise.all(again.map((job) => job?.getState()));
    await expect.poll(states, { timeout: 20_000 }).toContain('delayed');
    const others = await Promise.all(Array.from({ length: 3 }, () => fleet.enqueue(stepsJob, { how: 'silent' })));
    for (const other of others) await other.result({ timeoutMs: 60_000 });
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1 });
    zombie.wake();
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'effect' });
    expect((await snapshot(id)).effects).toEqual([{ n: 1 }]);
  });

  it('is not outlived by its connection: Postgres ends its transaction, and it goes on with the next', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const options = { databaseUrl: file.url, prefix, leaseTtlMs: 1_500, heartbeatMs: 300 };
    const zombie = await startDoomed({ ...options, point: 'transaction.commit.before', signal: 'SIGSTOP' });
    const { id } = await fleet.enqueue(stepsJob, { how: 'effect' });
    await zombie.stopped();
    const isFree = async () => {
      const { rows } = await sql`select id from oncefleet.jobs where id = ${id} for update skip locked`.execute(
        file.db,
      );
      return rows.length === 1;
    };
    expect(await isFree()).toBe(false);
    await expect.poll(isFree, { timeout: 20_000 }).toBe(true);
    await takeOver(file.db, id);
    zombie.wake();
    await zombie.said(GIVEN_UP);
    expect((await snapshot(id)).effects).toEqual([{ n: 0 }]);
    const next = await fleet.enqueue(stepsJob, { how: 'complete' });
    expect(await next.result({ timeoutMs: 60_000 })).toEqual({ how: 'complete' });
  });
});
