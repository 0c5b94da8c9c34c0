/**
 * A worker's connections to Postgres are cut at a crash point: after the server did what it was
 * asked and before the worker heard so, or before the server heard of it.
 */
import type { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { CrashPoint } from '../../src/crash-points.ts';
import { streamChannel } from '../../src/journal/channel.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { aheadJob, type StepsInput, stepsJob } from '../helpers/crash-process.ts';
import { LONG_LEASE, proxied, startDoomed } from '../helpers/doomed.ts';
import { journalOf, refusePoison, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
  // Rounds of the workers are none: their connections are for the statements that this is about.
  await sql`insert into oncefleet.reconciler_rounds (finished_at, worker) values (clock_timestamp() + interval '1 h', 'another')`.execute(
    file.db,
  );
});

/** A worker, once it has done all that it does by itself: its next statement finds a connection that is open and at rest. */
async function startAtRest(options: Parameters<typeof startDoomed>[0]) {
  const worker = await startDoomed({ reconcileMs: 600_000, ...options });
  const isAtRest = async () => {
    const { rows } = await sql<{ at_rest: boolean | null }>`
      select bool_and(state = 'idle') and bool_or(query ilike 'commit') as at_rest from pg_stat_activity
      where application_name like ${`oncefleet %:${worker.child.pid}:%`}`.execute(file.db);
    return rows[0]?.at_rest;
  };
  await expect.poll(isAtRest, WAIT).toBe(true);
  return worker;
}

/** A worker behind a proxy of its own, frozen at `point`. Its lease does not end while the test lasts. */
async function freeze(point: CrashPoint, how: StepsInput['how']) {
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [stepsJob], { prefix });
  const { proxy, url } = await proxied(file.url);
  const worker = await startAtRest({
    databaseUrl: url,
    prefix,
    point,
    signal: 'SIGSTOP',
    ...LONG_LEASE,
  });
  const { id } = await fleet.enqueue(stepsJob, { how });
  await worker.stopped();
  return { prefix, fleet, proxy, worker, id, queue: fleet.queues[0] as Queue };
}

/** A reader of a fleet that nothing else listens to; when this resolves it depends on the live bus. */
async function reading(fleet: Fleet, prefix: string, id: string) {
  const types: string[] = [];
  const follower = fleet.follow(id);
  const done = (async () => {
    for await (const { event } of follower) types.push(event.type);
  })();
  done.catch(() => undefined);
  const redis = new Redis(testRedisUrl());
  onTestFinished(async () => {
    redis.disconnect();
    await follower.return();
  });
  await expect.poll(async () => (await redis.pubsub('NUMSUB', streamChannel(prefix, id)))[1], WAIT).toBe(1);
  // It has looked at the head, and is not to find there what it should hear, when later looks are answered.
  for (let looks = 0; looks < 2; looks++) await fleet.readEvents(id, { after: -1 });
  return { types, done };
}

const typesOf = async (id: string) => (await journalOf(file.db, id)).map(({ event }) => event.type);

describe('what was committed and not answered is recognised:', () => {
  /** Lets the worker's next statement through, and cuts its connections when the server has done it. */
  async function loseAnswer(
    { proxy, worker, id }: Pick<Awaited<ReturnType<typeof freeze>>, 'proxy' | 'worker' | 'id'>,
    isDone: () => Promise<boolean>,
  ): Promise<Awaited<ReturnType<typeof rowOf>>> {
    proxy.set({ kind: 'mute' });
    worker.wake();
    await expect.poll(isDone, WAIT).toBe(true);
    proxy.set({ kind: 'cut' });
    const row = await rowOf(file.db, id);
    proxy.set({ kind: 'open' });
    return row;
  }

  it('a claim, by its own delivery', async () => {
    const stage = await freeze('claim.before', 'return');
    const { fleet, id } = stage;
    const left = await loseAnswer(stage, async () => (await rowOf(file.db, id)).status === 'running');
    expect(left.fence).toBe(1);
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, deferral_count: 0 });
    expect((await fleet.get(id))?.attempts).toHaveLength(1);
  });

  it('events, by the run that emitted them', async () => {
    const stage = await freeze('append.before', 'return');
    const { fleet, id } = stage;
    await loseAnswer(stage, async () => (await journalOf(file.db, id)).length > 0);
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, error_count: 0, interruption_count: 0 });
    expect(await typesOf(id)).toEqual(['step', 'step', 'end']);
  });

  it('events, and readers have them once while the run goes on', async () => {
    const stage = await freeze('append.before', 'quiet');
    const { fleet, prefix, worker, id } = stage;
    const live = await reading(fleet, prefix, id);
    let late: Awaited<ReturnType<typeof reading>> | undefined;
    // One has them from the journal before they are told.
    await loseAnswer(stage, async () => {
      if ((await journalOf(file.db, id)).length === 0) return false;
      late ??= await reading(fleet, prefix, id);
      return late.types.length > 0;
    });
    await expect.poll(() => live.types, WAIT).toEqual(['step']);
    worker.order({ type: 'go' });
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'quiet' });
    await Promise.all([live.done, late?.done]);
    expect([live.types, late?.types]).toEqual([
      ['step', 'end'],
      ['step', 'end'],
    ]);
  });

  it('a raise of its fence, by the run that raised it', async () => {
    await refusePoison(file.db);
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob, aheadJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const worker = await startAtRest({ databaseUrl: url, prefix, ...LONG_LEASE });
    const { id } = await fleet.enqueue(aheadJob, { how: 'poison' });
    await worker.told('refused');
    worker.order({ type: 'go' });
    await loseAnswer({ proxy, worker, id }, async () => (await rowOf(file.db, id)).fence === 2);
    await expect(fleet.result(id, { timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'JOURNAL_REFUSED' });
    expect(worker.log).not.toContain('run given up: its lease is lost');
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 2, crash_count: 0, interruption_count: 0 });
    expect(await typesOf(id)).toEqual(['error']);
  });

  it.each(['return', 'silent'] as const)('an outcome, by the run that had it (%s)', async (how) => {
    const stage = await freeze('settle.before', how);
    const { fleet, prefix, worker, queue, id } = stage;
    const live = await reading(fleet, prefix, id);
    const left = await loseAnswer(stage, async () => (await rowOf(file.db, id)).status === 'completed');
    await expect.poll(() => queue.getJobState(id), WAIT).toBe('completed');
    expect(worker.log).not.toContain('run given up: its lease is lost');
    expect(worker.log).not.toContain('outcome could not be written; settled as an error');
    // Not written a second time.
    expect(await rowOf(file.db, id)).toEqual(left);
    expect(await typesOf(id)).toEqual(how === 'silent' ? [] : ['step', 'step', 'end']);
    // Readers are told.
    await live.done;
    expect(live.types).toEqual(how === 'silent' ? ['end'] : ['step', 'step', 'end']);
  });

  it('an error that is retried, by the run that threw it', async () => {
    const stage = await freeze('settle.before', 'throw');
    const { fleet, worker, id } = stage;
    await loseAnswer(stage, async () => (await rowOf(file.db, id)).status === 'pending');
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'throw' });
    expect(worker.log).not.toContain('run given up: its lease is lost');
    expect(worker.log).not.toContain('outcome could not be written; settled as an error');
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 2, error_count: 1, crash_count: 0, interruption_count: 0 });
    expect(await typesOf(id)).toEqual(['step', 'step', 'retry', 'attempt', 'step', 'end']);
  });

  it('an interruption, by the run that was told to stop', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const options = { databaseUrl: url, prefix, ...LONG_LEASE };
    const worker = await startAtRest({ ...options, point: 'settle.before', signal: 'SIGSTOP' });
    const { id } = await fleet.enqueue(stepsJob, { how: 'wait-silent' });
    await worker.told('running');
    worker.child.kill('SIGTERM');
    await worker.stopped();
    await loseAnswer({ proxy, worker, id }, async () => {
      return (await rowOf(file.db, id)).status === 'pending';
    });
    await worker.ended();
    expect(worker.log).not.toContain('run given up: its lease is lost');
    expect(worker.log).not.toContain('outcome could not be written; settled as an error');
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, error_count: 0, interruption_count: 1, crash_count: 0 });
  });

  it('a transaction that completed its job, by the run that did it', async () => {
    const stage = await freeze('transaction.commit.before', 'complete');
    const { worker, queue, id } = stage;
    const left = await loseAnswer(stage, async () => (await rowOf(file.db, id)).status === 'completed');
    await expect.poll(() => queue.getJobState(id), WAIT).toBe('completed');
    expect(worker.log).not.toContain('run given up: its lease is lost');
    expect(await rowOf(file.db, id)).toEqual(left);
    const effects = await sql<{ n: number }>`select count(*)::int as n from effects where job_id = ${id}`.execute(
      file.db,
    );
    expect(effects.rows).toEqual([{ n: 1 }]);
  });
});

describe('what was not heard is said again:', () => {
  it.each([
    ['events', 'append.before', 'journal flush failed; retrying'],
    ['an outcome', 'settle.before', 'outcome not committed; trying again'],
  ] as const)('%s', async (_name, point, warning) => {
    const { fleet, proxy, worker, id } = await freeze(point, 'return');
    proxy.set({ kind: 'cut' });
    worker.wake();
    await worker.said(warning);
    proxy.set({ kind: 'open' });
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, error_count: 0, interruption_count: 0 });
    expect(await typesOf(id)).toEqual(['step', 'step', 'end']);
  });

  it('a claim, which has cost nothing', async () => {
    const { fleet, proxy, worker, id, queue } = await freeze('claim.before', 'return');
    proxy.set({ kind: 'cut' });
    worker.wake();
    await worker.said('Postgres is unreachable: delivery deferred');
    await expect.poll(() => queue.getJobState(id), WAIT).toBe('delayed');
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', fence: 0 });
    proxy.set({ kind: 'open' });
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'return' });
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, error_count: 0 });
  });

  it('a claim of another client’s job, which has its input with it and does not run unguarded', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const queue = fleet.queues[0] as Queue;
    const { proxy, url } = await proxied(file.url);
    const options = { databaseUrl: url, prefix, ...LONG_LEASE };
    const worker = await startAtRest({ ...options, point: 'claim.before', signal: 'SIGSTOP' });
    const foreign = await queue.add('steps', { how: 'wait', idempotencyKey: prefix });
    await worker.stopped();
    proxy.set({ kind: 'cut' });
    worker.wake();
    await worker.said('Postgres is unreachable: delivery deferred');
    expect(worker.words).toEqual([]);
    proxy.set({ kind: 'open' });
    await worker.told('running');
    worker.order({ type: 'go' });
    await expect.poll(() => foreign.getState(), WAIT).toBe('completed');
    const { jobs } = await fleet.find({ key: prefix });
    expect(jobs).toMatchObject([{ status: 'completed', fence: 1, crashCount: 0 }]);
  });
});

describe('an outcome whose events are still on their way', () => {
  /** The journal tries again, ever less often, when the handler returns; then Postgres is there. */
  async function returnBehindEvents() {
    const stage = await freeze('append.before', 'quiet');
    const { proxy, worker } = stage;
    proxy.set({ kind: 'cut' });
    worker.wake();
    const failures = () => worker.log.filter((message) => message === 'journal flush failed; retrying').length;
    // The pause after the sixth is the longest by far of all that are waited for.
    await expect.poll(failures, WAIT).toBe(6);
    worker.order({ type: 'go' });
    proxy.set({ kind: 'open' });
    expect(await stage.fleet.result(stage.id, { timeoutMs: 60_000 })).toEqual({ how: 'quiet' });
    return stage;
  }

  it('waits for them', async () => {
    const { id } = await returnBehindEvents();
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0, error_count: 0, interruption_count: 0 });
    expect(await typesOf(id)).toEqual(['step', 'end']);
  });

  it('leaves no gap before itself', async () => {
    const { fleet, id } = await returnBehindEvents();
    const types: string[] = [];
    for await (const { event } of fleet.follow(id)) types.push(event.type);
    expect(types).toEqual(await typesOf(id));
  });
});

describe('what nobody has heard is not told as done:', () => {
  it('a flush, of events that are on their way', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const options = { databaseUrl: url, prefix };
    const worker = await startAtRest({ ...options, point: 'claim.after', signal: 'SIGSTOP' });
    const handle = await fleet.enqueue(stepsJob, { how: 'flush-late' });
    await worker.stopped();
    proxy.set({ kind: 'hold' });
    worker.wake();
    await worker.told('in flight');
    await worker.ping();
    expect(worker.words).not.toContain('flushed');
    worker.child.kill('SIGKILL');
    await worker.dead();
    expect(await typesOf(handle.id)).toEqual([]);
  });

  it('to readers, events that are on their way', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const options = { databaseUrl: url, prefix };
    const worker = await startAtRest({ ...options, point: 'claim.after', signal: 'SIGSTOP' });
    const handle = await fleet.enqueue(stepsJob, { how: 'flush-late' });
    const live: string[] = [];
    const following = (async () => {
      for await (const { json } of handle.events()) live.push(json);
    })();
    await worker.stopped();
    proxy.set({ kind: 'hold' });
    worker.wake();
    await worker.told('in flight');
    await worker.ping();
    worker.child.kill('SIGKILL');
    await worker.dead();
    // Or what was held would arrive after all.
    await proxy.close();
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'flush-late' });
    await following;
    const journal = await journalOf(file.db, handle.id);
    expect(live.map((json) => JSON.parse(json))).toEqual(journal.map(({ event }) => event));
    expect(journal.map(({ event }) => event.type)).toEqual(['attempt', 'step', 'end']);
  });
});
