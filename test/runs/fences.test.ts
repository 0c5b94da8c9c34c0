/**
 * What the fences and their neighbours refuse, one mechanism a test, staged by hand: each of
 * them is taken out by a mutation of test/mutations.
 */
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { type CompiledQuery, sql } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { requestCancel } from '../../src/db/jobs/cancel.ts';
import { claimJobs } from '../../src/db/jobs/claim.ts';
import { raiseFence } from '../../src/db/jobs/fence.ts';
import { finishAbandoned } from '../../src/db/jobs/finish.ts';
import { findSettled, type Settlement, settleJobs } from '../../src/db/jobs/settle.ts';
import { RENEW_LEASES } from '../../src/db/leases.ts';
import { appendBatches, type EventBatch, findHeads } from '../../src/db/streams/segments.ts';
import { defineJob, type JobContext } from '../../src/index.ts';
import { Transitions } from '../../src/runtime/transitions.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { blockEventLoop } from '../helpers/block.ts';
import { connectionLost } from '../helpers/faulty-db.ts';
import {
  claimFree,
  expireLease,
  insertJob,
  journalOf,
  refusePoison,
  rowOf,
  settlement,
  useDatabase,
} from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

/** No renewal and no expiry within a test. */
const QUIET = { leaseTtlMs: 60_000, heartbeatMs: 20_000 };

function batchOf(streamId: string, firstSeq: number, types: string[] = ['said'], fence = 1): EventBatch {
  return { streamId, fence, firstSeq, events: types.map((type) => JSON.stringify({ type })) };
}

async function claimed(): Promise<string> {
  const id = await insertJob(file.db);
  await claimFree(file.db, id);
  return id;
}

const ledgerOf = (id: string) =>
  file.db.selectFrom('job_attempts').select(['fence', 'outcome']).where('job_id', '=', id).orderBy('fence').execute();

/** A silent completion has a statement of its own. */
const WAYS = [
  ['that completes', {}],
  ['that fails', { status: 'failed', outcome: 'error', result: null, error: '{"code":"X","message":"x"}' }],
  ['that retries', { status: 'pending', outcome: 'error', result: null, error: '{"code":"X","message":"x"}' }],
] satisfies [string, Partial<Settlement>][];

/** A job whose lease ran out, and which its own process then took over. */
async function takenOverByItself(): Promise<string> {
  const id = await claimed();
  await expireLease(file.db, id);
  await claimFree(file.db, id);
  return id;
}

describe('of two runs of one job in one statement', () => {
  it.each(WAYS)('the one %s at the fence settles it, the other is refused', async (_way, how) => {
    const id = await takenOverByItself();
    const [late, holder] = [settlement(id, 1, how), settlement(id, 2, how)];
    expect(await settleJobs(file.db, [late, holder])).toEqual(new Set([holder]));
    const again = await takenOverByItself();
    const said = [1, 2].map((fence) =>
      settlement(again, fence, { ...how, batch: batchOf(again, 0, [`by ${fence}`], fence) }),
    );
    expect(await settleJobs(file.db, said)).toEqual(new Set([said[1]]));
    expect((await journalOf(file.db, again)).map(({ event }) => event.type)).toEqual(['by 2']);
  });

  it('the one at the fence appends, the other is refused, wherever it stands', async () => {
    const id = await takenOverByItself();
    const [late, holder] = [batchOf(id, 5, ['late']), batchOf(id, 0, ['said'], 2)];
    expect(await appendBatches(file.db, [late, holder])).toEqual(new Set([holder]));
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['said']);
  });
});

describe('a settlement', () => {
  it.each(WAYS)('%s waits for a takeover in flight, then writes nothing, not even to the ledger', async (_way, how) => {
    const id = await claimed();
    await expireLease(file.db, id);
    let settling: Promise<Set<Settlement>> | undefined;
    await file.db.transaction().execute(async (trx) => {
      const [answer] = await claimJobs(
        trx,
        [{ id, owner: uuidV7(), ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true }],
        'worker',
      );
      expect(answer?.decision).toBe('claimed');
      settling = settleJobs(file.db, [settlement(id, 1, how)]);
      const waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
      await expect.poll(async () => (await file.pool.query(waiting)).rowCount).toBe(1);
    });
    expect(await settling).toEqual(new Set());
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 2, result: null });
    expect(await ledgerOf(id)).toEqual([
      { fence: 1, outcome: 'crash' },
      { fence: 2, outcome: null },
    ]);
  });

  it.each(WAYS)('%s is refused once the job has an outcome, and at an old fence', async (_way, how) => {
    const [done, taken] = [await claimed(), await claimed()];
    await settleJobs(file.db, [settlement(done, 1, { result: '"first"' })]);
    await expireLease(file.db, taken);
    await claimFree(file.db, taken);
    const rows = [await rowOf(file.db, done), await rowOf(file.db, taken)];
    expect(await settleJobs(file.db, [settlement(done, 1, how), settlement(taken, 1, how)])).toHaveProperty('size', 0);
    expect([await rowOf(file.db, done), await rowOf(file.db, taken)]).toEqual(rows);
  });

  it.each([
    ['the head is at another fence', { fence: 7, next_seq: 2, state: 'open' as const }],
    ['the head expects another seq', { fence: 1, next_seq: 3, state: 'open' as const }],
    ['the head is closed', { fence: 1, next_seq: 2, state: 'closed' as const }],
    ['there is no head and they do not start at 0', undefined],
  ])('with events is refused whole where %s', async (_where, head) => {
    const id = await claimed();
    if (head !== undefined) {
      await appendBatches(file.db, [batchOf(id, 0, ['a', 'b'])]);
      await file.db.updateTable('stream_heads').set(head).where('stream_id', '=', id).execute();
    }
    expect(await settleJobs(file.db, [settlement(id, 1, { batch: batchOf(id, 2, ['end']) })])).toHaveProperty(
      'size',
      0,
    );
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', result: null });
    expect(await journalOf(file.db, id)).toHaveLength(head === undefined ? 0 : 2);
    expect(await ledgerOf(id)).toEqual([{ fence: 1, outcome: null }]);
  });

  it('lets go of the lease, however the run ended', async () => {
    for (const how of [
      {},
      { status: 'failed', outcome: 'error' },
      { status: 'pending', outcome: 'error' },
      { status: 'pending', outcome: 'interruption' },
    ] as const) {
      const id = await claimed();
      expect(await settleJobs(file.db, [settlement(id, 1, how)])).toHaveProperty('size', 1);
      expect(await rowOf(file.db, id)).toMatchObject({ lease_owner: null, lease_expires_at: null });
    }
  });

  it('of a finished run cannot append to the stream that it closed itself', async () => {
    const id = await claimed();
    await appendBatches(file.db, [batchOf(id, 0)]);
    await settleJobs(file.db, [settlement(id, 1, { batch: batchOf(id, 1, ['end']) })]);
    expect((await findHeads(file.db, [id])).get(id)).toMatchObject({ nextSeq: 2, state: 'closed' });
    expect(await appendBatches(file.db, [batchOf(id, 2)])).toHaveProperty('size', 0);
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['said', 'end']);
  });

  it('is not taken for committed because its successor ended the same way', async () => {
    const id = await claimed();
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    await settleJobs(file.db, [settlement(id, 2)]);
    expect(await findSettled(file.db, [settlement(id, 1)])).toHaveProperty('size', 0);
    expect(await findSettled(file.db, [settlement(id, 2)])).toHaveProperty('size', 1);
  });
});

it('a fence that its own run raises is raised once, however often it asks', async () => {
  const id = await insertJob(file.db);
  const claimed = await claimFree(file.db, id);
  // Its answer was lost, so the run asks again.
  expect([await raiseFence(file.db, claimed), await raiseFence(file.db, claimed)]).toEqual([2, 2]);
  expect((await rowOf(file.db, id)).fence).toBe(2);
  await expireLease(file.db, id);
  const successor = await claimFree(file.db, id);
  expect(successor.fence).toBe(3);
  expect(await raiseFence(file.db, claimed)).toBeUndefined();
  expect(await raiseFence(file.db, { ...claimed, fence: 2 })).toBeUndefined();
  expect((await rowOf(file.db, id)).fence).toBe(3);
});

describe('an append', () => {
  it('that leaves a gap or repeats a seq is refused, and others of its statement are not', async () => {
    const [headless, open, good] = [await claimed(), await claimed(), await claimed()];
    await appendBatches(file.db, [batchOf(open, 0, ['a', 'b'])]);
    expect(await appendBatches(file.db, [batchOf(headless, 3), batchOf(open, 5), batchOf(good, 0)])).toHaveProperty(
      'size',
      1,
    );
    expect(await appendBatches(file.db, [batchOf(open, 1)])).toHaveProperty('size', 0);
    expect(await journalOf(file.db, headless)).toEqual([]);
    expect(await journalOf(file.db, open)).toHaveLength(2);
    expect(await journalOf(file.db, good)).toHaveLength(1);
  });
});

describe('a renewal', () => {
  it('at an old fence leaves the lease of the new owner as it is', async () => {
    const id = await claimed();
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    const before = await rowOf(file.db, id);
    expect((await file.pool.query(RENEW_LEASES, [[id], [1], [3_600_000]])).rowCount).toBe(0);
    expect(await rowOf(file.db, id)).toEqual(before);
  });

  it('revives a lease that has run out, but not that of a job under a limit: its place is free', async () => {
    const [free, limited] = [await claimed(), await claimed()];
    await sql`update oncefleet.jobs set limit_keys = 'key' where id = ${limited}`.execute(file.db);
    const renew = async () =>
      (
        await file.pool.query(RENEW_LEASES, [
          [free, limited],
          [1, 1],
          [60_000, 60_000],
        ])
      ).rows.map(({ id }) => id);
    expect(await renew()).toEqual(expect.arrayContaining([free, limited]));
    for (const id of [free, limited]) await expireLease(file.db, id);
    expect(await renew()).toEqual([free]);
  });

  it('gives no lease to a job that was settled', async () => {
    const id = await claimed();
    await settleJobs(file.db, [settlement(id, 1, { status: 'pending', outcome: 'interruption', result: null })]);
    const renewed = await file.pool.query(RENEW_LEASES, [[id], [1], [60_000]]);
    expect(renewed.rowCount).toBe(0);
    expect((await rowOf(file.db, id)).lease_expires_at).toBeNull();
  });
});

describe('an ending from outside', () => {
  it('leaves a job alone while its lease lives', async () => {
    const id = await claimed();
    await requestCancel(file.db, 'default', id);
    expect(await finishAbandoned(file.db, id, { resultTtlMs: 1_000, maxCrashes: 5 })).toBeUndefined();
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1 });
  });

  it('never changes a terminal row', async () => {
    const id = await claimed();
    await settleJobs(file.db, [settlement(id, 1)]);
    const before = await rowOf(file.db, id);
    expect(await finishAbandoned(file.db, id, { resultTtlMs: 1_000, maxCrashes: 0, cancel: true })).toBeUndefined();
    expect(await rowOf(file.db, id)).toEqual(before);
    expect(await journalOf(file.db, id)).toEqual([]);
  });

  it('takes more than maxCrashes crashes', async () => {
    const id = await insertJob(file.db);
    const finish = async (crashes: number) => {
      await file.db.updateTable('jobs').set({ crash_count: crashes }).where('id', '=', id).execute();
      return finishAbandoned(file.db, id, { resultTtlMs: 1_000, maxCrashes: 2 });
    };
    expect(await finish(2)).toBeUndefined();
    expect(await finish(3)).toMatchObject({ status: 'failed', reason: 'poison' });
  });
});

describe('a connection lost inside a transaction', () => {
  it('tells of it through onError, and its next statement fails', async () => {
    const errors: Error[] = [];
    const db = createDb({
      url: file.url,
      maxConnections: 1,
      applicationName: 'lost',
      onError: (error) => errors.push(error),
    });
    try {
      const transaction = db.kysely.transaction().execute(async (trx) => {
        const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx);
        await file.pool.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
        await expect.poll(() => errors.length).toBeGreaterThan(0);
        await sql`select 1`.execute(trx);
      });
      await expect(transaction).rejects.toThrow();
      expect(errors.length).toBeGreaterThan(0);
      expect((await sql`select 1`.execute(db.kysely)).rows).toHaveLength(1);
    } finally {
      await db.close();
    }
  });
});

describe('a key', () => {
  it('of one tenant never meets the job of another under the same key', async () => {
    const job = defineJob({ name: 'tenant-keys', input: z.object({}), run: async () => 1 });
    const fleet = createTestFleet(file.url, [job]);
    const mine = await fleet.enqueue(job, {}, { key: 'k', tenant: 'mine' });
    const yours = await fleet.enqueue(job, {}, { key: 'k', tenant: 'yours' });
    expect(yours.outcome).toBe('created');
    expect((await fleet.enqueue(job, {}, { key: 'k', tenant: 'mine' })).id).toBe(mine.id);
    expect((await fleet.enqueue(job, {}, { key: 'k', tenant: 'yours' })).id).toBe(yours.id);
  });

  it('of a failed job starts a new one where onFailedKey says rerun, and replays where it does not', async () => {
    const options = { input: z.object({}), attempts: 1, run: () => Promise.reject(new Error('no')) };
    const rerun = defineJob({ ...options, name: 'key-rerun', onFailedKey: 'rerun' });
    const replay = defineJob({ ...options, name: 'key-replay' });
    const fleet = createTestFleet(file.url, [rerun, replay]);
    await fleet.work();
    for (const [job, outcome] of [
      [rerun, 'created'],
      [replay, 'replayed'],
    ] as const) {
      const first = await fleet.enqueue(job, {}, { key: 'k' });
      await expect(first.result({ timeoutMs: 10_000 })).rejects.toThrow('no');
      const second = await fleet.enqueue(job, {}, { key: 'k' });
      expect([second.outcome, second.id === first.id]).toEqual([outcome, outcome === 'replayed']);
      await expect(second.result({ timeoutMs: 10_000 })).rejects.toThrow('no');
    }
  });
});

describe('a job of another tenant', () => {
  it('cannot be cancelled, redriven, read, found or waited for', async () => {
    const job = defineJob({ name: 'other-tenant', input: z.object({}), run: async () => 1 });
    const fleet = createTestFleet(file.url, [job]);
    const { id } = await fleet.enqueue(job, {}, { tenant: 'theirs' });
    const missing = { code: 'JOB_NOT_FOUND' };
    await expect(fleet.cancel(id)).rejects.toMatchObject(missing);
    await expect(fleet.redrive(id)).rejects.toMatchObject(missing);
    await expect(fleet.readEvents(id)).rejects.toMatchObject(missing);
    await expect(fleet.follow(id).next()).rejects.toMatchObject(missing);
    await expect(fleet.result(id, { timeoutMs: 500 })).rejects.toMatchObject(missing);
    expect(await fleet.get(id)).toBeUndefined();
    expect((await fleet.find({ name: 'other-tenant' })).jobs).toEqual([]);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'pending', cancel_requested_at: null });
    expect((await fleet.find({ name: 'other-tenant', tenant: 'theirs' })).jobs).toHaveLength(1);
  });
});

describe('to a run that was replaced and does not know it yet', () => {
  interface Attempted {
    /** Code of what the call threw. */
    threw: string | undefined;
    /** Code of what its signal aborted with. */
    aborted: string | undefined;
  }

  /** Runs a job up to `act`, gives its row to another owner, lets `act` go on. */
  async function actReplaced(
    name: string,
    act: (ctx: JobContext) => Promise<unknown>,
  ): Promise<{ id: string; attempted: Attempted }> {
    await sql`create table if not exists effects (job_id uuid)`.execute(file.db);
    const running = Promise.withResolvers<string>();
    const replaced = Promise.withResolvers<void>();
    const attempted = Promise.withResolvers<Attempted>();
    const job = defineJob({
      name,
      input: z.object({}),
      async run(_input, ctx) {
        running.resolve(ctx.jobId);
        await replaced.promise;
        const error = await act(ctx).then(
          () => undefined,
          (thrown: { code?: string }) => thrown,
        );
        attempted.resolve({ threw: error?.code, aborted: (ctx.signal.reason as { code?: string } | undefined)?.code });
      },
    });
    const fleet = createTestFleet(file.url, [job], QUIET);
    await fleet.work();
    await fleet.enqueue(job, {});
    const id = await running.promise;
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    replaced.resolve();
    return { id, attempted: await attempted.promise };
  }

  const effectsOf = async (id: string) =>
    (await sql`select from effects where job_id = ${id}`.execute(file.db)).rows.length;

  it('ctx.transaction throws before any effect, and aborts the run', async () => {
    let entered = false;
    const { id, attempted } = await actReplaced('replaced-transaction', (ctx) =>
      ctx.transaction(async (trx) => {
        entered = true;
        await sql`insert into effects values (${ctx.jobId})`.execute(trx);
      }),
    );
    expect(attempted).toEqual({ threw: 'LEASE_LOST', aborted: 'LEASE_LOST' });
    expect(entered).toBe(false);
    expect(await effectsOf(id)).toBe(0);
  });

  it('ctx.complete throws, and the effects beside it are rolled back', async () => {
    const { id, attempted } = await actReplaced('replaced-complete', (ctx) =>
      ctx.db.transaction().execute(async (trx) => {
        await sql`insert into effects values (${ctx.jobId})`.execute(trx);
        await ctx.complete(trx, 'mine');
      }),
    );
    expect(attempted.threw).toBe('LEASE_LOST');
    expect(await effectsOf(id)).toBe(0);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 2, result: null });
  });

  it('ctx.checkpoint throws, and aborts the run', async () => {
    const { id, attempted } = await actReplaced('replaced-checkpoint', (ctx) => ctx.checkpoint({ mine: true }));
    expect(attempted).toEqual({ threw: 'LEASE_LOST', aborted: 'LEASE_LOST' });
    expect((await rowOf(file.db, id)).checkpoint).toBeNull();
  });
});

describe('a run', () => {
  async function outcomeOf(name: string, run: (ctx: JobContext) => Promise<unknown>) {
    const job = defineJob({ name, input: z.object({}), attempts: 1, run: (_input, ctx) => run(ctx) });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await handle.result({ timeoutMs: 10_000 }).catch(() => undefined);
    return { id: handle.id, record: await fleet.get(handle.id) };
  }

  it('that completes itself twice in one transaction is told so, and has its first outcome', async () => {
    let again: unknown;
    const { id, record } = await outcomeOf('twice', (ctx) =>
      ctx.transaction(async (trx) => {
        await ctx.complete(trx, 'first');
        again = await ctx.complete(trx, 'second').catch((error: unknown) => error);
        expect(ctx.signal.aborted).toBe(false);
      }),
    );
    expect(again).toMatchObject({ code: 'STREAM_CLOSED' });
    expect(record).toMatchObject({ status: 'completed', result: 'first', fence: 1 });
    const replayed = await file.db.selectFrom('jobs').select('result').where('id', '=', id).executeTakeFirstOrThrow();
    expect(replayed.result).toBe('"first"');
  });

  it('one of whose events Postgres refused cannot complete itself', async () => {
    await refusePoison(file.db);
    let after: unknown;
    let thrown: unknown;
    const { record } = await outcomeOf('refused', async (ctx) => {
      await ctx.emit({ type: 'n', text: 'poison' });
      await ctx.flush().catch(() => undefined);
      thrown = await ctx.db
        .transaction()
        .execute((trx) => ctx.complete(trx, 'all is well'))
        .catch((error: unknown) => error);
      after = (await rowOf(file.db, ctx.jobId)).status;
    });
    expect(thrown).toMatchObject({ code: 'JOURNAL_REFUSED' });
    expect(after).toBe('running');
    expect(record).toMatchObject({ status: 'failed', error: { code: 'JOURNAL_REFUSED' } });
  });

  it.each([
    ['no number', { done: 'x' }, 'done: '],
    ['NaN', { done: Number.NaN }, 'done: '],
    ['a total that is none', { done: 1, total: '9' }, 'total: '],
    ['a message that is none', { done: 1, message: {} }, 'message: '],
    ['nothing', undefined, 'done: '],
  ])('cannot report %s as progress', async (_name, progress, message) => {
    let thrown: unknown;
    const { id } = await outcomeOf('progress', async (ctx) => {
      thrown = await ctx.progress(progress as never).catch((error: unknown) => error);
      await ctx.progress({ done: 1, total: 2, message: 'half' });
    });
    expect(thrown).toMatchObject({ code: 'EVENT_INVALID', message: expect.stringContaining(message) });
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['progress', 'end']);
  });

  it.each([[''], [undefined], [7]])('has no key for the step %j', async (step) => {
    let thrown: unknown;
    await outcomeOf('step', async (ctx) => {
      try {
        ctx.keyFor(step as never);
      } catch (error) {
        thrown = error;
      }
    });
    expect(thrown).toMatchObject({ code: 'INPUT_INVALID', message: expect.stringContaining('step: ') });
  });
});

it('a run that completed itself ends its delivery at once', async () => {
  const job = defineJob({
    name: 'completed-itself',
    input: z.object({}),
    run: (_input, ctx) => ctx.transaction((trx) => ctx.complete(trx, 'done')),
  });
  const fleet = createTestFleet(file.url, [job]);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  expect(await handle.result({ timeoutMs: 10_000 })).toBe('done');
  const queue = fleet.queues[0] as Queue;
  await expect.poll(async () => (await queue.getJob(handle.id))?.getState(), { timeout: 10_000 }).toBe('completed');
  expect(await queue.getJob(handle.id)).toMatchObject({ attemptsStarted: 1, returnvalue: 'done' });
});

it('a deadline that passes during the run aborts and fails it, whatever attempts are left', async () => {
  let reason: unknown;
  const job = defineJob({
    name: 'deadline-in-run',
    input: z.object({}),
    deadlineMs: 1_500,
    async run(_input, ctx) {
      await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
      reason = ctx.signal.reason;
      throw reason;
    },
  });
  const fleet = createTestFleet(file.url, [job]);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  expect(reason).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'failed', error_count: 1, fence: 1 });
});

it('an outcome that finds Postgres away is tried again by the run that has it', async () => {
  let runs = 0;
  const job = defineJob({ name: 'outcome-again', input: z.object({}), run: async () => ++runs });
  const fleet = createTestFleet(file.url, [job], QUIET);
  const execute = fleet.db.executeQuery.bind(fleet.db) as (query: CompiledQuery) => Promise<unknown>;
  let failures = 2;
  vi.spyOn(fleet.db, 'executeQuery').mockImplementation((async (query: CompiledQuery) => {
    if (query.sql.includes('oncefleet_settle') && failures-- > 0) throw connectionLost();
    return execute(query);
  }) as never);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  expect(await handle.result({ timeoutMs: 10_000 })).toBe(1);
  expect(failures).toBeLessThan(0);
  expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, crash_count: 0, error_count: 0 });
});

it('a handler that ignores its signal is left behind, and its job ends', async () => {
  const running = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<void>();
  const late = Promise.withResolvers<unknown>();
  const job = defineJob({
    name: 'deaf',
    input: z.object({}),
    async run(_input, ctx) {
      running.resolve();
      await leave.promise;
      late.resolve(await ctx.emit({ type: 'late' }).catch((error: { code?: string }) => error.code));
    },
  });
  const fleet = createTestFleet(file.url, [job]);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  await running.promise;
  await handle.cancel();
  await expect(handle.result({ timeoutMs: 15_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  leave.resolve();
  expect(await late.promise).toBe('STREAM_CLOSED');
});

it('a delivery that meets a job which crashed too often ends it, with an alert', async () => {
  const onPoison = vi.fn();
  const job = defineJob({ name: 'met-poisoned', input: z.object({}), maxCrashes: 0, run: async () => 1, onPoison });
  const fleet = createTestFleet(file.url, [job]);
  // The reconcilers' lock: they must not be first.
  await file.db.transaction().execute(async (trx) => {
    await sql`select pg_advisory_xact_lock(${0x6f6e6365})`.execute(trx);
    await fleet.work();
    const id = await insertJob(file.db, { name: job.name, queue: job.queue });
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    const queue = fleet.queues[0] as Queue;
    const bull = await queue.add(job.name, { oncefleet: 1, key: null }, { jobId: id });
    await expect.poll(() => bull.getState(), { timeout: 10_000 }).toBe('failed');
    expect((await queue.getJob(id))?.failedReason).toMatch(/^POISONED/);
    expect(onPoison).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ jobId: id, crashes: 1 }));
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['error']);
  });
});

it('a handler that blocks the event loop from its first line on keeps its lease', async () => {
  let held: unknown;
  const job = defineJob({
    name: 'blocks-at-once',
    input: z.object({}),
    async run(_input, ctx) {
      blockEventLoop(7_000);
      const { rows } =
        await sql`select lease_expires_at > clock_timestamp() as held from oncefleet.jobs where id = ${ctx.jobId}`.execute(
          ctx.db,
        );
      held = rows[0];
    },
  });
  const fleet = createTestFleet(file.url, [job], { leaseTtlMs: 3_000, heartbeatMs: 300 });
  await fleet.work();
  await (await fleet.enqueue(job, {})).result({ timeoutMs: 20_000 });
  expect(held).toEqual({ held: true });
});

it('a handler that blocks the event loop beyond maxBlockMs has crashed, and is poisoned in the end', async () => {
  const job = defineJob({
    name: 'blocks-too-long',
    input: z.object({}),
    maxCrashes: 1,
    async run(_input, ctx) {
      // Again where the lease thread was held up for as long, and renewed the lease just after the block.
      while (!ctx.signal.aborted) {
        blockEventLoop(2_000);
        await Promise.race([once(ctx.signal, 'abort'), setTimeout(500)]);
      }
    },
  });
  const fleet = createTestFleet(file.url, [job], { leaseTtlMs: 1_000, heartbeatMs: 100, maxBlockMs: 400 });
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  await expect(handle.result({ timeoutMs: 25_000 })).rejects.toMatchObject({ code: 'POISONED' });
  expect(await fleet.get(handle.id)).toMatchObject({ crashCount: 2, interruptionCount: 0 });
});

describe('a checkpoint', () => {
  it('is saved only after the events before it are committed', async () => {
    let journalled: number | undefined;
    const job = defineJob({
      name: 'checkpoint-after-events',
      input: z.object({}),
      async run(_input, ctx) {
        await ctx.emit({ type: 'before' });
        await ctx.checkpoint(1);
        journalled = (await journalOf(file.db, ctx.jobId)).length;
      },
    });
    const fleet = createTestFleet(file.url, [job], { lingerMs: 60_000 });
    await fleet.work();
    await (await fleet.enqueue(job, {})).result({ timeoutMs: 10_000 });
    expect(journalled).toBe(1);
  });

  it('supersedes what is emitted while it is being saved', async () => {
    const job = defineJob({
      name: 'checkpoint-meanwhile',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      async run(_input, ctx) {
        if (ctx.attempt > 1) return;
        await ctx.emit({ type: 'before' });
        const saved = ctx.checkpoint(1);
        await ctx.emit({ type: 'meanwhile' });
        await saved;
        throw new Error('again');
      },
    });
    const fleet = createTestFleet(file.url, [job], { lingerMs: 0 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await handle.result({ timeoutMs: 10_000 });
    expect((await journalOf(file.db, handle.id)).map(({ event }) => event)).toMatchObject([
      { type: 'before' },
      { type: 'meanwhile' },
      { type: 'retry' },
      { type: 'attempt', resumed: true, from: 1 },
      { type: 'end' },
    ]);
  });
});

it('a process that took a job over from itself ends the run that has the fence, and tells readers of no other', async () => {
  const [go, otherGo] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const started: number[] = [];
  const job = defineJob({
    name: 'twice',
    input: z.object({ n: z.number() }),
    async run({ n }, ctx) {
      await ctx.emit({ type: 'started', fence: ctx.fence });
      await ctx.flush();
      started.push(ctx.fence);
      await (n === 1 ? go : otherGo).promise;
      return { by: ctx.fence };
    },
  });
  const fleet = createTestFleet(file.url, [job], { ...QUIET, concurrency: 3, reconcileMs: 3_600_000 });
  await fleet.work();
  const { id } = await fleet.enqueue(job, { n: 1 }, { key: 'k' });
  const told: { seq: number; type: string }[] = [];
  const following = (async () => {
    for await (const { seq, event } of fleet.follow(id)) told.push({ seq, type: event.type });
  })();
  await expect.poll(() => started).toEqual([1]);
  await expireLease(file.db, id);
  const queue = fleet.queues[0] as Queue;
  await queue.add('twice', { n: 1, idempotencyKey: 'k' });
  await expect.poll(() => started).toEqual([1, 2]);
  // Both outcomes wait for a statement that is held up, and share the next one.
  const settle = vi.spyOn(Transitions.prototype, 'settle');
  onTestFinished(() => settle.mockRestore());
  const other = await fleet.enqueue(job, { n: 2 });
  await file.db.transaction().execute(async (trx) => {
    await expect.poll(() => started).toEqual([1, 2, 1]);
    await trx.selectFrom('jobs').select('id').where('id', '=', other.id).forUpdate().execute();
    otherGo.resolve();
    await expect.poll(() => settle.mock.calls.length).toBe(1);
    go.resolve();
    await expect.poll(() => settle.mock.calls.length).toBe(3);
  });
  expect(await fleet.result(id, { timeoutMs: 10_000 })).toEqual({ by: 2 });
  await following;
  expect(told).toEqual((await journalOf(file.db, id)).map(({ seq, event }) => ({ seq, type: event.type })));
  expect(await ledgerOf(id)).toEqual([
    { fence: 1, outcome: 'crash' },
    { fence: 2, outcome: 'completed' },
  ]);
  // The delivery of the run that lost its lease is not told that its outcome stands.
  await expect.poll(async () => (await queue.getJob(id))?.returnvalue, { timeout: 10_000 }).toEqual({ by: 2 });
});
