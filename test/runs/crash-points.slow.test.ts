/**
 * Kills a real process with SIGKILL at each crash point, one after the other, and freezes
 * one there past its lease. Then a healthy process goes on, and the promises must hold.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Queue } from 'bullmq';
import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import type { JobStatus } from '../../src/client/types.ts';
import { CRASH_POINTS, type CrashPoint } from '../../src/crash-points.ts';
import { fold, type StreamEvent } from '../../src/index.ts';
import { isTerminalType } from '../../src/journal/event.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { poisonAlerts, stepsJob } from '../helpers/crash-process.ts';
import { startDoomed as start, withoutReconcilers } from '../helpers/doomed.ts';
import { backdateJob, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const ROOT = fileURLToPath(new URL('../../', import.meta.url));

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

type How = 'complete' | 'return' | 'throw' | 'silent' | 'overlap' | 'quiet';

/** A worker that dies, or freezes, while it runs a job of the healthy fleet. */
interface RunScenario {
  point: CrashPoint;
  how: How;
  /** The row as the dead process left it. */
  left: { status: JobStatus; fence: number };
  /** Effects that it has committed. */
  effects: number;
  /** The journal as it left it, event types; undefined: that depends. */
  journal: string[] | undefined;
  /** The seq from which the next attempt takes the story up, where it goes on from a checkpoint. */
  resumed?: number;
  /** Counters in the end. */
  crashes: number;
  errors?: number;
}

const STARTED = { status: 'running', fence: 1 } as const;

const RUNS: readonly RunScenario[] = [
  {
    point: 'claim.before',
    how: 'complete',
    left: { status: 'pending', fence: 0 },
    effects: 0,
    journal: [],
    crashes: 0,
  },
  { point: 'claim.after', how: 'complete', left: STARTED, effects: 0, journal: [], crashes: 1 },
  { point: 'append.before', how: 'complete', left: STARTED, effects: 0, journal: [], crashes: 1 },
  { point: 'append.after', how: 'complete', left: STARTED, effects: 0, journal: ['step'], crashes: 1 },
  { point: 'checkpoint.before', how: 'complete', left: STARTED, effects: 0, journal: ['step'], crashes: 1 },
  { point: 'checkpoint.after', how: 'complete', left: STARTED, effects: 0, journal: ['step'], resumed: 1, crashes: 1 },
  {
    point: 'checkpoint.after',
    how: 'overlap',
    left: STARTED,
    effects: 0,
    journal: undefined,
    resumed: 1,
    crashes: 1,
  },
  { point: 'transaction.before', how: 'complete', left: STARTED, effects: 0, journal: ['step', 'step'], crashes: 1 },
  { point: 'complete.after', how: 'complete', left: STARTED, effects: 0, journal: ['step', 'step'], crashes: 1 },
  {
    point: 'transaction.commit.before',
    how: 'complete',
    left: STARTED,
    effects: 0,
    journal: ['step', 'step'],
    crashes: 1,
  },
  {
    point: 'transaction.commit.after',
    how: 'complete',
    left: { status: 'completed', fence: 1 },
    effects: 1,
    journal: ['step', 'step', 'end'],
    crashes: 0,
  },
  { point: 'settle.before', how: 'return', left: STARTED, effects: 0, journal: ['step', 'step'], crashes: 1 },
  { point: 'settle.before', how: 'silent', left: STARTED, effects: 0, journal: [], crashes: 1 },
  { point: 'settle.before', how: 'throw', left: STARTED, effects: 0, journal: ['step', 'step'], crashes: 1 },
  ...(['settle.after', 'answer.before'] as const).flatMap((point) => [
    {
      point,
      how: 'return' as const,
      left: { status: 'completed' as const, fence: 1 },
      effects: 0,
      journal: ['step', 'step', 'end'],
      crashes: 0,
    },
    {
      point,
      how: 'silent' as const,
      left: { status: 'completed' as const, fence: 1 },
      effects: 0,
      journal: [],
      crashes: 0,
    },
    {
      point,
      how: 'throw' as const,
      left: { status: 'pending' as const, fence: 1 },
      effects: 0,
      journal: ['step', 'step', 'retry'],
      crashes: 0,
      errors: 1,
    },
  ]),
];

/** Where a frozen process wakes as one whose job another has taken over. */
const FREEZES: readonly RunScenario[] = RUNS.filter(({ left, how }) => left.status === 'running' && how !== 'overlap');

const named = (scenarios: readonly RunScenario[]) =>
  scenarios.map((scenario) => [`${scenario.point} (${scenario.how})`, scenario] as const);

/** Points that other tests of this file drive. */
const DRIVEN = new Set<CrashPoint>();

/** Registers a test that drives `point`. */
function atPoint(point: CrashPoint, title: string, run: () => Promise<void>): void {
  DRIVEN.add(point);
  it(`${point}: ${title}`, run);
}

const startDoomed = (prefix: string, point: CrashPoint, options: Partial<Parameters<typeof start>[0]> = {}) =>
  start({ databaseUrl: file.url, prefix, point, ...options });

/** A fleet that does nothing until it is told to work. */
function healthyFleet(prefix: string): Fleet {
  return createTestFleet(file.url, [stepsJob], { prefix });
}

/** An alert of a job whose workers have died once more than they may; undefined where none is noted. */
const alertOf = (id: string) =>
  file.db.selectFrom('poison_alerts').selectAll().where('job_id', '=', id).executeTakeFirst();

/** The workers of a job have died once more than they may. */
async function crashTooOften(id: string): Promise<void> {
  await sql`update oncefleet.jobs set status = 'running', fence = 2, crash_count = 1, lease_owner = 'dead', started_at = now(),
    lease_expires_at = clock_timestamp() - interval '1 s' where id = ${id}`.execute(file.db);
}

/** Backdates an alert, as if whoever set out to call its hook had been silent for long. */
async function makeDue(id: string): Promise<void> {
  await sql`update oncefleet.poison_alerts set due_at = clock_timestamp() where job_id = ${id}`.execute(file.db);
}

/** That this process called the hook of a poisoned job once, and nobody will again. */
async function expectAlerted(id: string): Promise<void> {
  const calls = () => poisonAlerts.filter((jobId) => jobId === id);
  await expect.poll(calls, { timeout: 20_000 }).toHaveLength(1);
  await expect.poll(() => alertOf(id), { timeout: 20_000 }).toBeUndefined();
  expect(calls()).toHaveLength(1);
}

async function effectsOf(id: string): Promise<number> {
  const rows = await sql<{ n: number }>`select count(*)::int as n from effects where job_id = ${id}`.execute(file.db);
  return rows.rows[0]?.n ?? 0;
}

/** What a reader holds in the end, and has read to get there. */
async function read(events: AsyncIterable<StreamEvent>): Promise<{ steps: unknown[]; texts: string[] }> {
  const texts: string[] = [];
  const seen: StreamEvent[] = [];
  for await (const event of events) {
    expect(event.seq).toBe(texts.length);
    texts.push(event.json);
    seen.push(event);
  }
  const types = seen.map(({ event }) => event.type);
  expect(types.filter(isTerminalType)).toHaveLength(1);
  expect(isTerminalType(types.at(-1) ?? '')).toBe(true);
  const { value } = await fold(seen, {
    initial: [] as unknown[],
    reduce: (steps, event) => ('step' in event ? [...steps, event.step] : steps),
  });
  return { steps: value, texts };
}

/** The promises, of a job that has ended: one outcome, effects once, one terminal event at the end of its stream. */
async function expectOneStory(fleet: Fleet, id: string, how: How): Promise<void> {
  const { texts } = await read(fleet.follow(id));
  const journal = await journalOf(file.db, id);
  // The terminal event of an eventless job is kept in its row.
  if (journal.length > 0) expect(journal.map(({ event }) => event)).toEqual(texts.map((text) => JSON.parse(text)));
  expect(await effectsOf(id)).toBe(how === 'complete' ? 1 : 0);
  const record = await fleet.get(id);
  expect(record?.leaseOwner).toBeNull();
  expect(record?.attempts.filter(({ outcome }) => outcome === null)).toEqual([]);
}

describe('a worker killed at', () => {
  it.each(named(RUNS))(
    '%s: another goes on, once',
    async (_name, { point, how, left, effects, journal, resumed, ...counters }) => {
      const prefix = uniquePrefix();
      const fleet = healthyFleet(prefix);
      const doomed = await startDoomed(prefix, point);
      const handle = await fleet.enqueue(stepsJob, { how }, { key: `${point}-${how}` });
      const live: ReturnType<typeof read> = read(handle.events());
      // Awaited at the end; a test that fails before must not fail twice.
      live.catch(() => undefined);
      await doomed.dead();
      expect(await rowOf(file.db, handle.id)).toMatchObject(left);
      const head = await file.db
        .selectFrom('stream_heads')
        .select('state')
        .where('stream_id', '=', handle.id)
        .execute();
      if (journal !== undefined && journal.length > 0)
        expect(head).toEqual([{ state: left.status === 'completed' ? 'closed' : 'open' }]);
      expect(await effectsOf(handle.id)).toBe(effects);
      if (journal !== undefined)
        expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(journal);
      const duplicate = await fleet.enqueue(stepsJob, { how }, { key: `${point}-${how}` });
      expect(duplicate).toMatchObject({
        id: handle.id,
        outcome: left.status === 'completed' ? 'replayed' : 'attached',
      });

      if (left.status === 'running') await expireLease(file.db, handle.id);
      await fleet.work();
      expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how });
      expect(await duplicate.result()).toEqual({ how });
      await expectOneStory(fleet, handle.id, how);
      expect(await fleet.get(handle.id)).toMatchObject({
        status: 'completed',
        crashCount: counters.crashes,
        errorCount: counters.errors ?? 0,
        interruptionCount: 0,
        fence: 1 + counters.crashes + (counters.errors ?? 0),
      });
      // BullMQ learns of it too: nothing is left that would be delivered once more.
      const queue = fleet.queues[0] as Queue;
      await expect.poll(() => queue.getJobState(handle.id), { timeout: 20_000 }).toBe('completed');
      const later = counters.crashes + (counters.errors ?? 0);
      expect((await fleet.get(handle.id))?.attempts).toHaveLength(1 + later);
      // Who read from the start has what a later reader has, and is told of each attempt.
      expect(await live).toEqual(await read(fleet.follow(handle.id)));
      const { steps, texts } = await live;
      expect(steps).toEqual(how === 'silent' ? [] : [1, 2]);
      const attempts = texts.map((text) => JSON.parse(text)).filter(({ type }) => type === 'attempt');
      expect(attempts).toMatchObject(
        Array.from({ length: later }, () => ({
          reason: counters.crashes > 0 ? 'crash' : 'error',
          ...(resumed === undefined ? {} : { resumed: true, from: resumed }),
        })),
      );
    },
  );
});

describe('a worker killed in the middle', () => {
  it('append.after: one event is committed by the clock, nothing else asks for it', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const doomed = await startDoomed(prefix, 'append.after');
    const handle = await fleet.enqueue(stepsJob, { how: 'quiet' });
    await doomed.dead();
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['step']);
    await expireLease(file.db, handle.id);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'quiet' });
    await expectOneStory(fleet, handle.id, 'quiet');
  });

  it('of a long stream leaves two stories, and folding changes no event, seq or fence of either', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const doomed = await startDoomed(prefix, 'append.after', { skip: 20 });
    const handle = await fleet.enqueue(stepsJob, { how: 'long' });
    await doomed.dead();
    await expireLease(file.db, handle.id);
    const worker = await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'long' });
    await worker.close();
    const rows = () =>
      file.db.selectFrom('journal_segments').select('first_seq').where('stream_id', '=', handle.id).execute();
    const before = await journalOf(file.db, handle.id);
    expect(before.map(({ fence }) => fence)).toEqual([...Array(21).fill(1), ...Array(42).fill(2)]);
    expect((await rows()).length).toBeGreaterThan(50);
    await fleet.sweep();
    expect(await rows()).toHaveLength(2);
    expect(await journalOf(file.db, handle.id)).toEqual(before);
    for (const { seq, event } of before) {
      const { value } = await fleet.follow(handle.id, { after: seq - 1 }).next();
      expect(value).toMatchObject({ seq, event });
    }
    expect((await read(fleet.follow(handle.id))).steps).toEqual(Array.from({ length: 40 }, (_, step) => step));
  });
});

describe('a worker frozen at', () => {
  it.each(named(FREEZES))('%s past its lease: what it then writes is refused', async (_name, { point, how }) => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const zombie = await startDoomed(prefix, point, { signal: 'SIGSTOP' });
    const handle = await fleet.enqueue(stepsJob, { how }, { key: `frozen-${point}-${how}` });
    await zombie.stopped();
    await expireLease(file.db, handle.id);
    // BullMQ would bring the job back as well, but the frozen process still waits for its queue's
    // marker and swallows it: a worker that begins now finds this delivery without.
    const data = { oncefleet: 1, jobId: handle.id, key: null };
    await (fleet.queues[0] as Queue).add('steps', data, { jobId: `again-${handle.id}` });
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how });
    await expectOneStory(fleet, handle.id, how);
    const snapshot = async () => ({
      row: await rowOf(file.db, handle.id),
      journal: await journalOf(file.db, handle.id),
      effects: await effectsOf(handle.id),
      attempts: (await fleet.get(handle.id))?.attempts,
    });
    const before = await snapshot();
    expect(before.row).toMatchObject({ status: 'completed', crash_count: 1, fence: 2 });
    zombie.wake();
    await zombie.said('run given up: its lease is lost');
    expect(await snapshot()).toEqual(before);
  });
});

describe('a delivery killed at', () => {
  atPoint('defer.before', 'the owner goes on, and the delivery gets its result later', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    const queue = fleet.queues[0] as Queue;
    // Another worker has it.
    await sql`update oncefleet.jobs set status = 'running', fence = 1, lease_owner = 'other', started_at = now(),
      lease_expires_at = clock_timestamp() + interval '60 s' where id = ${handle.id}`.execute(file.db);
    const doomed = await startDoomed(prefix, 'defer.before');
    await doomed.dead();
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'running', fence: 1, deferral_count: 1 });
    await sql`update oncefleet.jobs set status = 'completed', result = '{"how":"return"}', lease_owner = null, lease_expires_at = null,
      finished_at = now(), expires_at = now() + interval '1 h' where id = ${handle.id}`.execute(file.db);
    await fleet.work();
    await expect.poll(() => queue.getJobState(handle.id), { timeout: 20_000 }).toBe('completed');
    expect(await handle.result()).toEqual({ how: 'return' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'completed', fence: 1, crash_count: 0 });
  });

  for (const point of ['end.before', 'end.after', 'poison.alert.before', 'poison.alert.after'] as const) {
    atPoint(point, 'the job ends poisoned, once, and its alert is raised', async () => {
      const prefix = uniquePrefix();
      const fleet = healthyFleet(prefix);
      const handle = await fleet.enqueue(stepsJob, { how: 'return' });
      await crashTooOften(handle.id);
      await withoutReconcilers(file.db, async () => {
        const doomed = await startDoomed(prefix, point);
        await doomed.dead();
      });
      const left = await rowOf(file.db, handle.id);
      expect(left).toMatchObject(
        point === 'end.before' ? { status: 'running', crash_count: 1 } : { status: 'failed', crash_count: 2 },
      );
      if (point === 'end.before') expect(await alertOf(handle.id)).toBeUndefined();
      else {
        expect(await alertOf(handle.id)).toMatchObject({ fence: 3, name: 'steps', crashes: 2, calls: 1 });
        await makeDue(handle.id);
      }
      await fleet.work();
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'POISONED' });
      await expect.poll(() => (fleet.queues[0] as Queue).getJobState(handle.id), { timeout: 20_000 }).toBe('failed');
      expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'failed', crash_count: 2, fence: 3 });
      expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['error']);
      await expectAlerted(handle.id);
    });
  }

  atPoint('retry.redriven', 'the retry goes on as a redrive', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    await sql`update oncefleet.jobs set cancel_requested_at = null, deadline_at = clock_timestamp() - interval '1 s'
      where id = ${handle.id}`.execute(file.db);
    const worker = await fleet.work();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    const queue = fleet.queues[0] as Queue;
    await expect.poll(() => queue.getJobState(handle.id), { timeout: 20_000 }).toBe('failed');
    await worker.close();
    await sql`update oncefleet.jobs set deadline_at = null where id = ${handle.id}`.execute(file.db);
    const doomed = await startDoomed(prefix, 'retry.redriven');
    await (await queue.getJob(handle.id))?.retry('failed');
    await doomed.dead();
    expect(await rowOf(file.db, handle.id)).toMatchObject({
      status: 'pending',
      crash_count: 0,
      last_outcome: 'redrive',
    });
    const other = healthyFleet(prefix);
    await other.work();
    expect(await other.result(handle.id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'completed', crash_count: 0, error_count: 0 });
    const types = (await journalOf(file.db, handle.id)).map(({ event }) => event.type);
    expect(types).toEqual(['error', 'attempt', 'step', 'step', 'end']);
  });
});

describe('a client killed at', () => {
  const startClient = async (point: CrashPoint) => {
    const prefix = uniquePrefix();
    return { fleet: healthyFleet(prefix), doomed: await startDoomed(prefix, point, { role: 'client' }) };
  };

  for (const point of ['enqueue.row.before', 'enqueue.row.after', 'enqueue.dispatch.after'] as const) {
    const exists = point !== 'enqueue.row.before';
    atPoint(
      point,
      exists ? 'the job runs, and asking again attaches' : 'there is no job, and asking again makes it',
      async () => {
        const { fleet, doomed } = await startClient(point);
        doomed.order({ type: 'enqueue', key: point, how: 'complete' });
        await doomed.dead();
        const found = (await fleet.find({ key: point })).jobs;
        expect(found).toHaveLength(exists ? 1 : 0);
        const queue = fleet.queues[0] as Queue;
        const dispatched = found[0] !== undefined && (await queue.getJob(found[0].id)) !== undefined;
        expect(dispatched).toBe(point === 'enqueue.dispatch.after');
        await fleet.work();
        // Nobody asks again, and it runs all the same.
        if (found[0] !== undefined)
          expect(await fleet.result(found[0].id, { timeoutMs: 60_000 })).toEqual({ how: 'complete' });
        const again = await fleet.enqueue(stepsJob, { how: 'complete' }, { key: point });
        expect(again.outcome).toBe(exists ? 'replayed' : 'created');
        expect(await again.result({ timeoutMs: 60_000 })).toEqual({ how: 'complete' });
        await expectOneStory(fleet, again.id, 'complete');
        expect(await rowOf(file.db, again.id)).toMatchObject({ fence: 1, crash_count: 0 });
      },
    );
  }

  for (const point of ['outbox.committed', 'outbox.dispatched'] as const) {
    atPoint(point, 'the job runs once, and nothing stays in the outbox', async () => {
      const { fleet, doomed } = await startClient(point);
      doomed.order({ type: 'enqueue', key: point, how: 'complete', inTransaction: true });
      await doomed.dead();
      const [job] = (await fleet.find({ key: point })).jobs;
      if (job === undefined) throw new Error('the transaction had committed');
      const outbox = async () => (await file.db.selectFrom('dispatch_outbox').selectAll().execute()).length;
      expect(await outbox()).toBe(1);
      const queue = fleet.queues[0] as Queue;
      expect((await queue.getJob(job.id)) !== undefined).toBe(point === 'outbox.dispatched');
      await fleet.work();
      expect(await fleet.result(job.id, { timeoutMs: 60_000 })).toEqual({ how: 'complete' });
      await expectOneStory(fleet, job.id, 'complete');
      expect(await rowOf(file.db, job.id)).toMatchObject({ fence: 1, crash_count: 0 });
      await expect.poll(outbox, { timeout: 20_000 }).toBe(0);
    });
  }

  for (const point of ['cancel.asked', 'cancel.ended'] as const) {
    atPoint(point, 'the job is cancelled, with one terminal event', async () => {
      const { fleet, doomed } = await startClient(point);
      const handle = await fleet.enqueue(stepsJob, { how: 'complete' });
      const followed: string[] = [];
      const following = (async () => {
        for await (const { event } of handle.events()) followed.push(event.type);
      })();
      doomed.order({ type: 'cancel', id: handle.id });
      await doomed.dead();
      expect((await rowOf(file.db, handle.id)).status).toBe(point === 'cancel.asked' ? 'pending' : 'cancelled');
      await fleet.work();
      await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
      await following;
      expect(followed).toEqual(['cancelled']);
      expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['cancelled']);
      expect(await effectsOf(handle.id)).toBe(0);
    });
  }

  atPoint('redrive.row', 'the job runs again', async () => {
    const { fleet, doomed } = await startClient('redrive.row');
    const handle = await fleet.enqueue(stepsJob, { how: 'complete' });
    await sql`update oncefleet.jobs set deadline_at = clock_timestamp() - interval '1 s' where id = ${handle.id}`.execute(
      file.db,
    );
    const worker = await fleet.work();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await expect.poll(() => (fleet.queues[0] as Queue).getJobState(handle.id), { timeout: 20_000 }).toBe('failed');
    await sql`update oncefleet.jobs set deadline_at = null where id = ${handle.id}`.execute(file.db);
    void worker;
    doomed.order({ type: 'redrive', id: handle.id });
    await doomed.dead();
    await expect.poll(async () => (await rowOf(file.db, handle.id)).status, { timeout: 20_000 }).toBe('completed');
    expect(await handle.result()).toEqual({ how: 'complete' });
    expect(await effectsOf(handle.id)).toBe(1);
    const types = (await journalOf(file.db, handle.id)).map(({ event }) => event.type);
    expect(types).toEqual(['error', 'attempt', 'step', 'step', 'end']);
  });
});

describe('a reconciler killed at', () => {
  /** Row of a job that has waited for a minute and is not in Redis. */
  const insertOverlooked = async () => {
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"complete"}' });
    await backdateJob(file.db, id, 60_000);
    return id;
  };

  for (const point of ['reconcile.locked', 'reconcile.missing', 'reconcile.dispatched'] as const) {
    atPoint(point, 'the next one takes over, and the overlooked job runs once', async () => {
      const prefix = uniquePrefix();
      const fleet = healthyFleet(prefix);
      const id = await insertOverlooked();
      const doomed = await startDoomed(prefix, point, { role: 'reconciler' });
      await doomed.dead();
      const queue = fleet.queues[0] as Queue;
      expect((await queue.getJob(id)) !== undefined).toBe(point === 'reconcile.dispatched');
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', fence: 0 });
      await fleet.work();
      expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'complete' });
      await expectOneStory(fleet, id, 'complete');
      expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0 });
    });
  }

  atPoint('reconcile.end.after', 'the ending stands, and readers get it', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const id = await insertJob(file.db, {
      name: 'steps',
      queue: 'steps',
      input: '{"how":"return"}',
      deadlineMs: 60_000,
    });
    const followed: string[] = [];
    const following = (async () => {
      for await (const { event } of fleet.follow(id)) followed.push(event.type);
    })();
    await sql`update oncefleet.jobs set deadline_at = clock_timestamp() - interval '1 s' where id = ${id}`.execute(
      file.db,
    );
    const doomed = await startDoomed(prefix, 'reconcile.end.after', { role: 'reconciler' });
    await doomed.dead();
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', fence: 1 });
    await following;
    expect(followed).toEqual(['error']);
    await fleet.work();
    await expect(fleet.result(id)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await expectOneStory(fleet, id, 'return');
  });

  it.each(['reconcile.end.after', 'poison.alert.before', 'poison.alert.after'] as const)(
    '%s of a poisoned job: the ending stands, and its alert is raised',
    async (point) => {
      const prefix = uniquePrefix();
      const fleet = healthyFleet(prefix);
      const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"return"}' });
      await crashTooOften(id);
      const doomed = await startDoomed(prefix, point, { role: 'reconciler' });
      await doomed.dead();
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', fence: 3, crash_count: 2 });
      expect(await alertOf(id)).toMatchObject({ fence: 3, name: 'steps', crashes: 2, calls: 1 });
      await makeDue(id);
      await fleet.work();
      await expectAlerted(id);
      await expect(fleet.result(id)).rejects.toMatchObject({ code: 'POISONED' });
    },
  );

  it('poison.alert.before, by an alert that another had left behind: the third calls the hook', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"return"}' });
    await crashTooOften(id);
    const first = await startDoomed(prefix, 'reconcile.end.after', { role: 'reconciler' });
    await first.dead();
    await makeDue(id);
    const second = await startDoomed(prefix, 'poison.alert.before', { role: 'reconciler' });
    await second.dead();
    expect(await alertOf(id)).toMatchObject({ calls: 2 });
    await makeDue(id);
    await fleet.work();
    await expectAlerted(id);
  });

  atPoint('redispatch.removed', 'the next one adds what it had removed', async () => {
    const prefix = uniquePrefix();
    const fleet = healthyFleet(prefix);
    const handle = await fleet.enqueue(stepsJob, { how: 'silent' });
    const worker = await fleet.work();
    await handle.result({ timeoutMs: 60_000 });
    const queue = fleet.queues[0] as Queue;
    await expect.poll(() => queue.getJobState(handle.id), { timeout: 20_000 }).toBe('completed');
    await worker.close();
    // A restore of Postgres from a moment ago, beside a Redis of now.
    await sql`update oncefleet.jobs set status = 'pending', result = null, finished_at = null, expires_at = null,
      run_at = run_at - interval '1 min' where id = ${handle.id}`.execute(file.db);
    await sql`insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from oncefleet.jobs where id = ${handle.id}`.execute(
      file.db,
    );
    const doomed = await startDoomed(prefix, 'redispatch.removed', { role: 'reconciler' });
    await doomed.dead();
    expect(await queue.getJob(handle.id)).toBeUndefined();
    const other = healthyFleet(prefix);
    await other.work();
    await expect.poll(async () => (await rowOf(file.db, handle.id)).status, { timeout: 20_000 }).toBe('completed');
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 2, crash_count: 0 });
  });
});

describe('the list of crash points', () => {
  const points = Object.keys(CRASH_POINTS) as CrashPoint[];

  it('has a test for each', () => {
    expect([...new Set([...RUNS.map(({ point }) => point), ...DRIVEN])].sort()).toEqual(points.toSorted());
  });

  it('names each place in the source once', () => {
    const sources = readdirSync(`${ROOT}src`, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(`${ROOT}src/${name}`, 'utf8'))
      .join('\n');
    const placed = [...sources.matchAll(/(?:crashPoint\(|committed: )'([\w.]+)'/g)].map((match) => match[1]);
    expect(placed.sort()).toEqual(points.toSorted());
  });

  it('is the table in docs/internals/crash-points.md', () => {
    const docs = readFileSync(`${ROOT}docs/internals/crash-points.md`, 'utf8');
    const rows = [...docs.matchAll(/^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|$/gm)];
    expect(rows.map(([, point, where]) => [point, where])).toEqual(Object.entries(CRASH_POINTS));
  });
});
