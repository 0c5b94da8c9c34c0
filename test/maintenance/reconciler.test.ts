/** The reconciler's rounds, called by hand, in a process that runs nothing. */
import { sql, type Transaction } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { requestCancel } from '../../src/db/jobs/cancel.ts';
import {
  findAbandonedJobs,
  findOverdueJobs,
  findPendingJobs,
  type UnfinishedCursor,
} from '../../src/db/jobs/unfinished.ts';
import { insertOutbox } from '../../src/db/outbox.ts';
import type { Database } from '../../src/db/schema.ts';
import { findUnfolded } from '../../src/db/streams/fold.ts';
import { defineJob } from '../../src/index.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { backdateJob, claimFree, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

async function createReconciler() {
  const onPoison = vi.fn();
  const job = defineJob({ name: 'job', input: z.object({}), maxCrashes: 1, run: async () => 1, onPoison });
  const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
  onTestFinished(() => runtime.close());
  const announced: { batch: { streamId: string }; end: boolean }[] = [];
  vi.spyOn(runtime.publisher, 'publish').mockImplementation((given) => void announced.push(...given));
  await expect.poll(() => runtime.redis.status).toBe('ready');
  const reconciler = new Reconciler({ runtime, jobs: new Map([[job.name, job]]), intervalMs: 1_000 });
  return {
    reconciler,
    runtime,
    onPoison,
    dispatch: (id: string, delayMs = 0) =>
      runtime.dispatcher.dispatch(
        {
          id,
          tenant: 'default',
          name: 'job',
          queue: 'job',
          key: null,
          options: { priority: 0, attempts: 3, backoff: { type: 'fixed', delayMs: 0 } },
          delayMs,
        },
        'client',
      ),
    stateOf: (id: string) => runtime.dispatcher.queue('job').getJobState(id),
    key: (name: string) => runtime.dispatcher.queue('job').toKey(name),
    announcedOf: (id: string) => announced.filter(({ batch }) => batch.streamId === id),
    inRedis: async (id: string) => (await runtime.dispatcher.queue('job').getJob(id)) !== undefined,
  };
}

const backdate = (id: string, ms: number) => backdateJob(file.db, id, ms);

/** Empties the tables that a round reads. */
const deleteJobs = () => sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs`.execute(file.db);

/** Puts jobs that were inserted by hand on the list that a round reads. */
const listUnfinished = () =>
  sql`insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from oncefleet.jobs where finished_at is null
    on conflict do nothing`.execute(file.db);

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

  it('finds what lost its worker however many jobs wait before it, due or not', async () => {
    onTestFinished(async () => void (await deleteJobs()));
    const { reconciler, inRedis } = await createReconciler();
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input, run_at)
      select gen_random_uuid(), 'default', 'job', 'job', '', '{"priority":0,"attempts":1,"backoff":{"type":"fixed","delayMs":0}}', '{}',
        clock_timestamp() - interval '1 h'
      from generate_series(1, 4500)`.execute(file.db);
    await listUnfinished();
    // A person had it run at once.
    const early = await insertJob(file.db, { delayMs: 600_000 });
    await claimFree(file.db, early);
    await expireLease(file.db, early);
    await reconciler.reconcile();
    expect(await inRedis(early)).toBe(true);
  });

  it('takes off its list what was ended by hand or deleted, and leaves what is being sent round again', async () => {
    const { reconciler } = await createReconciler();
    const [ended, deleted, failed] = [await insertJob(file.db), await insertJob(file.db), await insertJob(file.db)];
    for (const id of [ended, deleted, failed]) await backdate(id, 2_000);
    await sql`update oncefleet.jobs set status = 'failed', finished_at = clock_timestamp() where id in (${ended}, ${failed})`.execute(
      file.db,
    );
    await sql`delete from oncefleet.jobs where id = ${deleted}`.execute(file.db);
    await file.db.transaction().execute(async (trx) => {
      await trx.selectFrom('jobs').select('id').where('id', '=', failed).forUpdate().execute();
      await reconciler.reconcile();
    });
    const listed = file.db
      .selectFrom('unfinished_jobs')
      .select('job_id')
      .where('job_id', 'in', [ended, deleted, failed]);
    expect(await listed.execute()).toEqual([{ job_id: failed }]);
    await reconciler.reconcile();
    expect(await listed.execute()).toEqual([]);
  });

  it('leaves alone what runs', async () => {
    const { reconciler, inRedis, announcedOf } = await createReconciler();
    const running = await insertJob(file.db);
    await claimFree(file.db, running);
    await reconciler.reconcile();
    expect(await inRedis(running)).toBe(false);
    expect(announcedOf(running)).toEqual([]);
    expect((await findAbandonedJobs(file.db, { limit: 1_000 })).jobs.map(({ id }) => id)).not.toContain(running);
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
    const [cancelled, later] = [await insertJob(file.db), await insertJob(file.db, { delayMs: 60_000 })];
    await sql`update oncefleet.jobs set cancel_requested_at = clock_timestamp() where id = ${cancelled}`.execute(
      file.db,
    );
    await requestCancel(file.db, 'default', later);
    const late = await insertJob(file.db, { deadlineMs: 0, delayMs: 60_000 });
    await reconciler.reconcile();
    for (const id of [cancelled, later]) expect((await rowOf(file.db, id)).status).toBe('cancelled');
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

describe('where Postgres and Redis disagree, the reconciler', () => {
  it('gives a delayed job back the delay it has left, its priority and its counters', async () => {
    const { reconciler, runtime } = await createReconciler();
    const options = { priority: 9, attempts: 4, backoff: { type: 'fixed' as const, delayMs: 0 } };
    const id = await insertJob(file.db, { delayMs: 600_000, options });
    await backdate(id, 200_000);
    await sql`update oncefleet.jobs set error_count = 2 where id = ${id}`.execute(file.db);
    await reconciler.reconcile();
    const job = await runtime.dispatcher.queue('job').getJob(id);
    expect(await job?.getState()).toBe('delayed');
    expect(job?.delay).toBeGreaterThan(390_000);
    expect(job?.delay).toBeLessThanOrEqual(400_000);
    expect(job?.opts).toMatchObject({ priority: 9, attempts: 4 });
    expect(await rowOf(file.db, id)).toMatchObject({ error_count: 2, status: 'pending' });
  });

  it('delivers again, after its delay, what BullMQ has as failed', async () => {
    const { reconciler, runtime, dispatch, stateOf, key } = await createReconciler();
    const [due, later] = [await insertJob(file.db), await insertJob(file.db, { delayMs: 600_000 })];
    for (const id of [due, later]) {
      await dispatch(id);
      await runtime.redis
        .multi()
        .lrem(key('wait'), 0, id)
        .zadd(key('failed'), Date.now(), id)
        .hset(key(id), 'finishedOn', Date.now(), 'failedReason', 'attempts exhausted')
        .exec();
    }
    await reconciler.reconcile();
    expect([await stateOf(due), await stateOf(later)]).toEqual(['waiting', 'delayed']);
  });

  it('finds what BullMQ has in no list, and leaves what is in one', async () => {
    const { reconciler, runtime, dispatch, stateOf, key } = await createReconciler();
    const [lost, active, waiting] = [await insertJob(file.db), await insertJob(file.db), await insertJob(file.db)];
    for (const id of [lost, active, waiting]) await dispatch(id);
    await runtime.redis.lrem(key('wait'), 0, lost);
    await runtime.redis.lrem(key('wait'), 0, active);
    await runtime.redis.lpush(key('active'), active);
    await reconciler.reconcile();
    expect([await stateOf(lost), await stateOf(active), await stateOf(waiting)]).toEqual([
      'waiting',
      'active',
      'waiting',
    ]);
  });

  it('has BullMQ deliver a job that it keeps for later although it is due by Postgres’s clock, and leaves others', async () => {
    const { reconciler, runtime, dispatch, stateOf, key } = await createReconciler();
    const insertAged = async () => {
      const id = await insertJob(file.db);
      await backdate(id, 1_500);
      return id;
    };
    // The clock of whoever gave it to BullMQ is two hours ahead; or the workers' are behind, and BullMQ's time has come.
    const [ahead, behind, retried, left] = [
      await insertAged(),
      await insertAged(),
      await insertAged(),
      await insertAged(),
    ];
    await dispatch(ahead, 7_200_000);
    await dispatch(behind, 1_000);
    await dispatch(retried, 7_200_000);
    await dispatch(left, 20_000);
    // A worker has had these: one retries, and one was left to a worker that knows its name.
    for (const id of [retried, left]) await runtime.redis.hset(key(id), 'ats', 1);
    await reconciler.reconcile();
    expect(await Promise.all([ahead, behind, retried, left].map(stateOf))).toEqual([
      'waiting',
      'waiting',
      'waiting',
      'delayed',
    ]);
    const later = await insertJob(file.db, { delayMs: 600_000 });
    await dispatch(later, 600_000);
    await reconciler.reconcile();
    expect(await stateOf(later)).toBe('delayed');
  });

  it('makes a delayed job due whose row has ended, so that it ends in BullMQ too, and leaves other clients’ jobs', async () => {
    const { reconciler, runtime, dispatch, stateOf } = await createReconciler();
    const [ended, waiting] = [
      await insertJob(file.db, { delayMs: 600_000 }),
      await insertJob(file.db, { delayMs: 600_000 }),
    ];
    await dispatch(ended, 600_000);
    await dispatch(waiting, 600_000);
    await sql`update oncefleet.jobs set status = 'cancelled', finished_at = clock_timestamp() - interval '5 s' where id = ${ended}`.execute(
      file.db,
    );
    const foreign = await runtime.dispatcher.queue('job').add('job', {}, { jobId: uuidV7(), delay: 600_000 });
    await reconciler.reconcile();
    expect([await stateOf(ended), await stateOf(waiting), await stateOf(foreign.id as string)]).toEqual([
      'waiting',
      'delayed',
      'delayed',
    ]);
  });

  it('ends a stream whose job has ended, once, and tells its readers', async () => {
    const { reconciler, announcedOf } = await createReconciler();
    const id = await insertJob(file.db);
    await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 1)`.execute(file.db);
    await sql`insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      values (${id}, 0, 0, 1, '[{"type":"said"}]')`.execute(file.db);
    await sql`update oncefleet.jobs set status = 'completed', result = '5', finished_at = clock_timestamp() where id = ${id}`.execute(
      file.db,
    );
    await reconciler.reconcile();
    await reconciler.reconcile();
    expect((await journalOf(file.db, id)).map(({ event }) => event)).toEqual([
      { type: 'said' },
      { type: 'end', result: 5 },
    ]);
    expect(announcedOf(id)).toMatchObject([{ end: true, batch: { firstSeq: 1 } }]);
  });

  it('has a long stream folded that it has ended', async () => {
    const { reconciler } = await createReconciler();
    const id = await insertJob(file.db);
    await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 40)`.execute(file.db);
    await sql`insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      select ${id}, seq, seq, 1, '[{"type":"said"}]' from generate_series(0, 39) seq`.execute(file.db);
    await sql`update oncefleet.jobs set status = 'completed', result = '5', finished_at = clock_timestamp() where id = ${id}`.execute(
      file.db,
    );
    await reconciler.reconcile();
    expect(await findUnfolded(file.db, undefined, 10)).toContain(id);
  });

  it('dispatches what the outbox holds, and empties it', async () => {
    const { reconciler, inRedis } = await createReconciler();
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    const waiting = await insertJob(file.db);
    await insertOutbox(file.db, [id, waiting]);
    expect(await reconciler.reconcile()).toBeGreaterThan(0);
    expect([await inRedis(id), await inRedis(waiting)]).toEqual([false, true]);
    expect(await file.db.selectFrom('dispatch_outbox').selectAll().execute()).toEqual([]);
  });

  it('finds a lost job that just became due, however many orderly ones wait before it', async () => {
    const { reconciler, runtime, inRedis } = await createReconciler();
    await deleteJobs();
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input, run_at)
      select gen_random_uuid(), 'default', 'job', 'job', '', '{"priority":0,"attempts":1,"backoff":{"type":"fixed","delayMs":0}}', '{}',
        clock_timestamp() - interval '1 h'
      from generate_series(1, 2500)`.execute(file.db);
    await listUnfinished();
    const lost = await insertJob(file.db);
    await backdate(lost, 2_000);
    await reconciler.reconcile();
    await reconciler.reconcile();
    await runtime.dispatcher.queue('job').remove(lost);
    // However long all that took.
    await sql`
      with due as (update oncefleet.jobs set run_at = clock_timestamp() - interval '1500 ms' where id = ${lost} returning run_at)
      update oncefleet.unfinished_jobs u set run_at = due.run_at from due where u.job_id = ${lost}`.execute(file.db);
    await reconciler.reconcile();
    expect(await inRedis(lost)).toBe(true);
    await deleteJobs();
  });

  it('does not hurry past a page of running jobs, of which nothing is missing', async () => {
    const { reconciler, runtime, inRedis } = await createReconciler();
    await deleteJobs();
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input, status, run_at, lease_owner, lease_expires_at, fence)
      select gen_random_uuid(), 'default', 'job', 'job', '', '{"priority":0}', '{}', 'running', clock_timestamp() - interval '2 h',
        'w', clock_timestamp() + interval '1 h', 1
      from generate_series(1, 1000)`.execute(file.db);
    await listUnfinished();
    const lost = await insertJob(file.db);
    await backdate(lost, 3_600_000);
    // The first walk sweeps.
    await reconciler.reconcile();
    expect(await inRedis(lost)).toBe(true);
    await runtime.dispatcher.queue('job').remove(lost);
    await reconciler.reconcile();
    expect(await inRedis(lost)).toBe(false);
    await reconciler.reconcile();
    expect(await inRedis(lost)).toBe(true);
    await deleteJobs();
  });

  it('walks over a Redis that was flushed without a pause, however many pages of orderly jobs are before the lost ones', async () => {
    const { reconciler, runtime, inRedis } = await createReconciler();
    await deleteJobs();
    const jobs = Array.from({ length: 5_500 }, () => uuidV7());
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input, run_at)
      select id, 'default', 'job', 'job', '', '{"priority":0,"attempts":1,"backoff":{"type":"fixed","delayMs":0}}', '{}',
        clock_timestamp() - interval '1 h' + n * interval '1 ms'
      from unnest(${jobs}::uuid[]) with ordinality as j (id, n)`.execute(file.db);
    await listUnfinished();
    const last = jobs.at(-1) as string;
    const sweep = async (rounds: number) => {
      for (let round = 0; round < rounds && !(await inRedis(last)); round++) await reconciler.reconcile();
    };
    await sweep(20);
    expect(await inRedis(last)).toBe(true);
    await reconciler.reconcile();
    // Lost alone, it is come upon in its turn; lost with the mark that a flush takes too, at once.
    await runtime.dispatcher.queue('job').remove(last);
    await reconciler.reconcile();
    expect(await inRedis(last)).toBe(false);
    await runtime.redis.del(`${runtime.settings.prefix}:swept`);
    // One round, three where it is slow and its second runs out; in its turn the last of six pages is the fourth round's.
    await sweep(3);
    expect(await inRedis(last)).toBe(true);
    await deleteJobs();
  });
});

it('a round reads pages by index, however many jobs wait, run and have ended', async () => {
  await deleteJobs();
  for (const [status, count] of [
    ['pending', 20_000],
    ['running', 2_000],
    ['completed', 30_000],
  ] as const)
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input, status, run_at, lease_owner, lease_expires_at, finished_at)
      select gen_random_uuid(), 'default', 'job', 'job', '', '{"priority":0}', '{}', ${status}, clock_timestamp() - interval '1 h' + n * interval '1 ms',
        case when ${status} = 'running' then 'w' end, case when ${status} = 'running' then clock_timestamp() + interval '1 h' end,
        case when ${status} = 'completed' then clock_timestamp() end
      from generate_series(1, ${count}::int) n`.execute(file.db);
  await listUnfinished();
  await sql`analyze oncefleet.jobs, oncefleet.unfinished_jobs`.execute(file.db);
  // What the connection did before, and has not reported yet, counts too.
  const readUntilNow = async (trx: Transaction<Database>) => {
    const read = await sql<{ count: number }>`
      select sum(seq_tup_read + idx_tup_fetch)::int as count from pg_stat_xact_user_tables
      where relname in ('jobs', 'unfinished_jobs')`.execute(trx);
    return read.rows[0]?.count ?? 0;
  };
  const readBy = (ask: (trx: Transaction<Database>) => Promise<unknown>) =>
    file.db.transaction().execute(async (trx) => {
      const before = await readUntilNow(trx);
      await ask(trx);
      return (await readUntilNow(trx)) - before;
    });
  // A page of 100 is 100 entries of the list, one to see that it goes on, and their rows.
  let end: UnfinishedCursor | undefined;
  expect(
    await readBy(async (trx) => {
      ({ end } = await findPendingJobs(trx, { limit: 100 }));
    }),
  ).toBeLessThanOrEqual(300);
  expect(end).toBeDefined();
  expect(await readBy((trx) => findPendingJobs(trx, { limit: 100, after: end }))).toBeLessThanOrEqual(300);
  // The planner looks at the ends of indexes.
  const recent = { limit: 100, graceMs: 1_000, withinMs: 16_000 };
  expect(await readBy((trx) => findPendingJobs(trx, recent))).toBeLessThanOrEqual(5);
  expect(await readBy((trx) => findOverdueJobs(trx, 100))).toBeLessThanOrEqual(5);
  expect(await readBy((trx) => findAbandonedJobs(trx, { limit: 2_000, after: end }))).toBeLessThanOrEqual(4_100);
  await deleteJobs();
});

describe('the reconcilers of several processes', () => {
  it('leave the work to the one that did the last round, until it is overdue', async () => {
    const [first, second] = [await createReconciler(), await createReconciler()];
    await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
    expect(await first.reconciler.reconcile({ notWithinMs: 60_000 })).toBeDefined();
    expect(await second.reconciler.reconcile({ notWithinMs: 60_000 })).toBeUndefined();
    expect(await first.reconciler.reconcile({ notWithinMs: 60_000 })).toBeDefined();
    await sql`update oncefleet.reconciler_rounds set finished_at = finished_at - interval '61 s'`.execute(file.db);
    expect(await second.reconciler.reconcile({ notWithinMs: 60_000 })).toBeDefined();
    expect(await first.reconciler.reconcile({ notWithinMs: 60_000 })).toBeUndefined();
  });

  it('take over at once from one that is closed', async () => {
    const [first, second] = [await createReconciler(), await createReconciler()];
    first.reconciler.start();
    const worker = () => file.db.selectFrom('reconciler_rounds').select('worker').executeTakeFirst();
    await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
    await expect.poll(async () => (await worker())?.worker).toBe(first.runtime.workerId);
    await first.reconciler.close();
    expect(await worker()).toBeUndefined();
    expect(await second.reconciler.reconcile({ notWithinMs: 60_000 })).toBeDefined();
  });
});
