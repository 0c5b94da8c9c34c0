/** Redis loses what it was given, all of it or a part, and workers die meanwhile: Postgres has the jobs. */
import type { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requestCancel } from '../../src/db/jobs/cancel.ts';
import { stepsJob } from '../helpers/crash-process.ts';
import { LONG_LEASE, startDoomed } from '../helpers/doomed.ts';
import { backdateJob, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { startTestRedis, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };
const own: { url: string; client: Redis; stop(): Promise<void> } = {
  url: '',
  client: undefined as never,
  stop: async () => undefined,
};

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
  const { redis, stop } = await startTestRedis();
  Object.assign(own, { url: redis.url, client: new Redis(redis.url), stop });
});

afterAll(async () => {
  own.client.disconnect();
  await own.stop();
});

function fleetOf(prefix = uniquePrefix()) {
  const fleet = createTestFleet(file.url, [stepsJob], { redisUrl: own.url, prefix });
  return { fleet, prefix, queue: fleet.queues[0] as Queue };
}

/** Backdates rows, so that they count as overlooked at once. */
const grow = (id: string) => backdateJob(file.db, id, 60_000);

describe('after a FLUSHALL', () => {
  it('a job whose worker was killed too runs again', async () => {
    const { fleet, prefix } = fleetOf();
    const worker = await startDoomed({ databaseUrl: file.url, redisUrl: own.url, prefix, point: 'append.after' });
    const handle = await fleet.enqueue(stepsJob, { how: 'complete' });
    await worker.dead();
    await own.client.flushall();
    await expireLease(file.db, handle.id);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'complete' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 2, crash_count: 1 });
  });

  it('a job that kills its workers is ended by the reconciler, with an alert, though nothing delivers it', async () => {
    const { fleet, prefix } = fleetOf();
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    const read: string[] = [];
    const following = (async () => {
      for await (const { event } of handle.events()) read.push(event.type);
    })();
    following.catch(() => undefined);
    for (let crash = 1; crash <= 2; crash++) {
      const worker = await startDoomed({
        databaseUrl: file.url,
        redisUrl: own.url,
        prefix,
        point: 'claim.after',
        reconcileMs: 600_000,
      });
      if (crash === 2) await (fleet.queues[0] as Queue).add('steps', { oncefleet: 1, jobId: handle.id, key: null });
      await worker.dead();
      await expireLease(file.db, handle.id);
    }
    await own.client.flushall();
    const options = { databaseUrl: file.url, redisUrl: own.url, prefix, role: 'reconciler' } as const;
    const reconciler = await startDoomed(options);
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'POISONED' });
    await reconciler.said('job poisoned: it crashed or lost its worker too often');
    expect(await rowOf(file.db, handle.id)).toMatchObject({ crash_count: 2, fence: 3 });
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(['error']);
    await following;
    expect(read).toEqual(['error']);
  });

  it('a job that became due a moment ago is dispatched again', async () => {
    const { fleet, prefix, queue } = fleetOf();
    const options = {
      databaseUrl: file.url,
      redisUrl: own.url,
      prefix,
      role: 'reconciler',
      reconcileMs: 1_000,
    } as const;
    await startDoomed(options);
    const handle = await fleet.enqueue(stepsJob, { how: 'return' });
    await own.client.flushall();
    await expect.poll(() => queue.getJobState(handle.id), WAIT).toBe('waiting');
  });

  it('waiting jobs are dispatched again, delayed ones with the delay they have left', async () => {
    const { fleet, queue } = fleetOf();
    const [due, later] = [
      await fleet.enqueue(stepsJob, { how: 'complete' }),
      await fleet.enqueue(stepsJob, { how: 'return' }, { delayMs: 600_000 }),
    ];
    await own.client.flushall();
    await grow(due.id);
    await fleet.work();
    expect(await due.result({ timeoutMs: 60_000 })).toEqual({ how: 'complete' });
    await expect.poll(() => queue.getJobState(later.id), WAIT).toBe('delayed');
    expect((await queue.getJob(later.id))?.delay).toBeGreaterThan(500_000);
    expect(await rowOf(file.db, later.id)).toMatchObject({ status: 'pending', fence: 0 });
  });

  it('and without a worker the doctor puts back every job that waits', async () => {
    const { fleet, prefix, queue } = fleetOf();
    const worker = await startDoomed({ databaseUrl: file.url, redisUrl: own.url, prefix, point: 'append.after' });
    const lost = await fleet.enqueue(stepsJob, { how: 'complete' });
    await worker.dead();
    await expireLease(file.db, lost.id);
    const due = await fleet.enqueue(stepsJob, { how: 'complete' });
    const later = await fleet.enqueue(stepsJob, { how: 'return' }, { delayMs: 600_000 });
    await own.client.flushall();
    await fleet.doctor({ fix: true });
    const states = [lost, due, later].map(({ id }) => queue.getJobState(id));
    expect(await Promise.all(states)).toEqual(['waiting', 'waiting', 'delayed']);
    const kinds = (await fleet.doctor()).findings.map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === 'not-dispatched' || kind === 'lease-expired')).toEqual([]);
  });

  it.each([
    ['cancelled', {}, 'CANCELLED'],
    ['past its deadline', { deadlineMs: 500 }, 'DEADLINE_EXCEEDED'],
  ])('a waiting job that is %s ends, though nothing delivers it', async (how, options, code) => {
    const { fleet } = fleetOf();
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', delayMs: 600_000, ...options });
    // As a client leaves it that dies before it ends the job itself.
    if (how === 'cancelled') await requestCancel(file.db, 'default', id);
    await own.client.flushall();
    await fleet.work();
    await expect(fleet.result(id, { timeoutMs: 60_000 })).rejects.toMatchObject({ code });
    expect(await journalOf(file.db, id)).toHaveLength(1);
  });

  it('a job that was enqueued in a transaction runs, though Redis had it', async () => {
    const { fleet, queue } = fleetOf();
    const client = await file.pool.connect();
    await client.query('begin');
    const { id } = await fleet.enqueue(stepsJob, { how: 'complete' }, { tx: client });
    await client.query('commit');
    client.release();
    await expect.poll(() => queue.getJobState(id), WAIT).toBe('waiting');
    await own.client.flushall();
    await grow(id);
    await fleet.work();
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'complete' });
  });
});

describe('after an eviction', () => {
  it('of a list a job is found that BullMQ has and will not run', async () => {
    const { fleet, queue } = fleetOf();
    const handle = await fleet.enqueue(stepsJob, { how: 'complete' });
    expect(await own.client.unlink(queue.toKey('wait'))).toBe(1);
    expect(await queue.getJob(handle.id)).toBeDefined();
    await grow(handle.id);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'complete' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, crash_count: 0 });
  });
});

describe('a process that reconciles', () => {
  it('and freezes keeps the others out, until Postgres takes its lock away', async () => {
    const { fleet, prefix } = fleetOf();
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"complete"}' });
    await grow(id);
    await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
    const options = { databaseUrl: file.url, redisUrl: own.url, prefix, ...LONG_LEASE } as const;
    const frozen = await startDoomed({ ...options, role: 'reconciler', point: 'reconcile.locked', signal: 'SIGSTOP' });
    await frozen.stopped();
    const at = performance.now();
    // A second one comes to this point only with the lock.
    const second = await startDoomed({ ...options, role: 'reconciler', point: 'reconcile.locked', signal: 'SIGSTOP' });
    await second.stopped();
    expect(performance.now() - at).toBeGreaterThan(3_000);
    second.wake();
    await fleet.work();
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'complete' });
    // What it knew is old news to everybody; it repairs nothing twice.
    frozen.wake();
    await frozen.end();
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0 });
  });

  it('and dies leaves a stream without its end to the next', async () => {
    const { fleet, prefix } = fleetOf();
    const id = await insertJob(file.db, { name: 'steps', queue: 'steps', input: '{"how":"return"}' });
    // A row that was restored from a moment later than its stream.
    await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 1)`.execute(file.db);
    await sql`insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      values (${id}, 0, 0, 1, '[{"type":"step"}]')`.execute(file.db);
    await sql`update oncefleet.jobs set status = 'completed', fence = 1, result = '5', finished_at = clock_timestamp() where id = ${id}`.execute(
      file.db,
    );
    await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
    const options = {
      databaseUrl: file.url,
      redisUrl: own.url,
      prefix,
      role: 'reconciler',
      point: 'reconcile.locked',
    } as const;
    await (await startDoomed(options)).dead();
    const types: string[] = [];
    const following = (async () => {
      for await (const { event } of fleet.follow(id)) types.push(event.type);
    })();
    await fleet.work();
    await following;
    expect(types).toEqual(['step', 'end']);
  });
});
