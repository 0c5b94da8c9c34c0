import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { requestCancel } from '../../../src/db/jobs/cancel.ts';
import { claimJobs } from '../../../src/db/jobs/claim.ts';
import { lockFence, saveCheckpoint } from '../../../src/db/jobs/fence.ts';
import { finishAbandoned } from '../../../src/db/jobs/finish.ts';
import { redriveJob } from '../../../src/db/jobs/redrive.ts';
import { settleJobs } from '../../../src/db/jobs/settle.ts';
import { appendBatches } from '../../../src/db/streams/segments.ts';
import { uuidV7 } from '../../../src/util/uuid.ts';
import {
  backdateJob,
  claimFree,
  claimOne,
  expireLease,
  insertJob,
  journalOf,
  rowOf,
  settlement,
  useDatabase,
} from '../../helpers/fixtures.ts';

const file = useDatabase();

describe('the claim table, row by row', () => {
  it('a pending job is claimed at fence 1', async () => {
    const id = await insertJob(file.db);
    const job = await claimFree(file.db, id);
    expect(job).toMatchObject({ id, fence: 1, crashCount: 0, nextSeq: 0 });
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1 });
  });

  it('a lease held by a live owner defers, and says for how long by the database clock', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    const answer = await claimOne(file.db, id);
    expect(answer.decision).toBe('held');
    expect((answer as { leaseLeftMs: number }).leaseLeftMs).toBeGreaterThan(50_000);
    expect((answer as { leaseLeftMs: number }).leaseLeftMs).toBeLessThanOrEqual(60_000);
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, deferral_count: 1, crash_count: 0 });
  });

  it('an expired lease is claimed at the next fence and counts as a crash of the last owner', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    const job = await claimFree(file.db, id);
    expect(job).toMatchObject({ fence: 2, crashCount: 1, lastOutcome: 'crash' });
    const ledger = await file.db
      .selectFrom('job_attempts')
      .select(['fence', 'outcome'])
      .where('job_id', '=', id)
      .orderBy('fence')
      .execute();
    expect(ledger).toEqual([
      { fence: 1, outcome: 'crash' },
      { fence: 2, outcome: null },
    ]);
  });

  it.each(['null', 'false', '0', '""', null])('a completed job replays its result, also %s', async (result) => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await settleJobs(file.db, [settlement(id, 1, { result })]);
    expect(await claimOne(file.db, id)).toEqual({ decision: 'completed', result });
  });

  it('a completed job past its TTL still replays to a delivery', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await settleJobs(file.db, [settlement(id, 1, { resultTtlMs: 0 })]);
    expect(await claimOne(file.db, id)).toEqual({ decision: 'completed', result: '1' });
  });

  it('a job that crashed more than maxCrashes times is to be ended as poisoned, one that did so maxCrashes times runs', async () => {
    const id = await insertJob(file.db);
    for (let crash = 0; crash <= 2; crash++) {
      expect((await claimOne(file.db, id, { maxCrashes: 2 })).decision).toBe('claimed');
      await expireLease(file.db, id);
    }
    expect(await claimOne(file.db, id, { maxCrashes: 2 })).toEqual({ decision: 'end', why: 'poison' });
    const finished = await finishAbandoned(file.db, id, { resultTtlMs: 1_000, delivery: 0, maxCrashes: 2 });
    expect(finished).toMatchObject({ status: 'failed', alert: { jobId: id, fence: 4, crashes: 3 } });
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', crash_count: 3, fence: 4, lease_owner: null });
    expect((await journalOf(file.db, id)).at(-1)?.event).toMatchObject({ type: 'error', error: { code: 'POISONED' } });
  });

  it('errors, deferrals and interruptions do not poison', async () => {
    const id = await insertJob(file.db);
    for (const outcome of ['error', 'interruption', 'interruption'] as const) {
      const { fence } = await claimFree(file.db, id);
      await claimOne(file.db, id);
      await settleJobs(file.db, [settlement(id, fence, { status: 'pending', outcome, result: null })]);
    }
    expect((await claimOne(file.db, id, { maxCrashes: 0 })).decision).toBe('claimed');
    expect(await rowOf(file.db, id)).toMatchObject({
      crash_count: 0,
      error_count: 1,
      interruption_count: 2,
      deferral_count: 3,
    });
  });

  it('a failed job fails again with its stored error on a stalled redelivery', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    const error = JSON.stringify({ code: 'HANDLER_ERROR', message: 'no' });
    await settleJobs(file.db, [
      settlement(id, 1, { status: 'failed', outcome: 'error', result: null, error, delivery: 2 }),
    ]);
    expect(await claimOne(file.db, id, { delivery: 2 })).toEqual({
      decision: 'failed',
      error: { code: 'HANDLER_ERROR', message: 'no' },
    });
    // BullMQ counted the failure, so this delivery was asked for by a person.
    expect((await claimOne(file.db, id, { delivery: 3 })).decision).toBe('retried');
  });

  it('a failure that no delivery made is first repeated to one, then redriven by a retry', async () => {
    const id = await insertJob(file.db);
    await claimOne(file.db, id, { maxCrashes: 0 });
    await expireLease(file.db, id);
    await finishAbandoned(file.db, id, { resultTtlMs: 1_000, maxCrashes: 0 });
    expect((await claimOne(file.db, id, { delivery: 1 })).decision).toBe('failed');
    expect((await claimOne(file.db, id, { delivery: 1 })).decision).toBe('failed');
    expect((await claimOne(file.db, id, { delivery: 2 })).decision).toBe('retried');
  });

  it('a cancelled job stays cancelled', async () => {
    const id = await insertJob(file.db);
    await requestCancel(file.db, 'default', id);
    expect(await claimOne(file.db, id)).toEqual({ decision: 'end', why: 'cancel' });
    await finishAbandoned(file.db, id, { resultTtlMs: 1_000, delivery: 0, maxCrashes: 5 });
    expect(await claimOne(file.db, id)).toEqual({ decision: 'cancelled' });
  });

  it('a job past its deadline is to be ended', async () => {
    const id = await insertJob(file.db, { deadlineMs: 0 });
    expect(await claimOne(file.db, id)).toEqual({ decision: 'end', why: 'deadline' });
  });

  it.each(['for the first time', 'again'])('a job is not run %s before it is due', async (how) => {
    const delayMs = 600_000;
    const id = await insertJob(file.db, how === 'again' ? {} : { delayMs });
    if (how === 'again') {
      await claimFree(file.db, id);
      await settleJobs(file.db, [
        settlement(id, 1, { status: 'pending', outcome: 'error', result: null, error: '{}', delayMs }),
      ]);
    }
    const before = await rowOf(file.db, id);
    const answer = await claimOne(file.db, id, { early: false });
    expect(answer.decision).toBe('early');
    expect((answer as { dueInMs: number }).dueInMs).toBeGreaterThan(delayMs - 60_000);
    expect((answer as { dueInMs: number }).dueInMs).toBeLessThanOrEqual(delayMs);
    expect(await rowOf(file.db, id)).toEqual(before);
    await backdateJob(file.db, id, delayMs);
    expect(await claimOne(file.db, id, { early: false })).toMatchObject({ decision: 'claimed' });
  });

  it('a job that must end is ended before it is due', async () => {
    const id = await insertJob(file.db, { delayMs: 600_000 });
    await requestCancel(file.db, 'default', id);
    expect(await claimOne(file.db, id, { early: false })).toEqual({ decision: 'end', why: 'cancel' });
  });

  it('a claim whose answer was lost is answered again to its own delivery, at the same fence', async () => {
    const id = await insertJob(file.db);
    await claimOne(file.db, id, { owner: 'me' });
    const again = await claimOne(file.db, id, { owner: 'me' });
    expect(again).toMatchObject({ decision: 'claimed', job: { fence: 1, crashCount: 0 } });
  });

  it.each([
    ['nobody has run yet', false, 'for update'],
    ['another owner has left in the middle of a transaction', true, 'for key share'],
  ])('a locked row that %s is busy and holds up nobody else of the batch', async (_name, ranBefore, lock) => {
    const locked = await insertJob(file.db);
    const free = await insertJob(file.db);
    if (ranBefore) {
      await claimFree(file.db, locked);
      await expireLease(file.db, locked);
    }
    const client = await file.pool.connect();
    try {
      await client.query('begin');
      await client.query(`select from oncefleet.jobs where id = $1 ${lock}`, [locked]);
      const answers = await claimJobs(
        file.db,
        [locked, free].map((id) => ({ id, owner: uuidV7(), ttlMs: 1_000, maxCrashes: 5, delivery: 0, own: true })),
        'worker',
      );
      expect(answers.map((answer) => answer.decision)).toEqual(['busy', 'claimed']);
    } finally {
      await client.query('rollback');
      client.release();
    }
  });

  it('several deliveries in one batch give one owner; the others are deferred', async () => {
    const id = await insertJob(file.db);
    const request = { id, ttlMs: 1_000, maxCrashes: 5, delivery: 0, own: true };
    const batch = ['a', 'b', 'c'].map((owner) => ({ ...request, owner }));
    expect((await claimJobs(file.db, batch, 'worker')).map((answer) => answer.decision)).toEqual([
      'claimed',
      'held',
      'held',
    ]);
    expect((await claimJobs(file.db, batch.slice(1), 'worker')).map((answer) => answer.decision)).toEqual([
      'held',
      'held',
    ]);
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, lease_owner: 'a', deferral_count: 4 });
  });

  it('an unknown job is missing', async () => {
    expect((await claimOne(file.db, uuidV7())).decision).toBe('missing');
  });

  it('50 claims at once give one owner', async () => {
    const id = await insertJob(file.db);
    const answers = await Promise.all(Array.from({ length: 50 }, () => claimOne(file.db, id)));
    expect(answers.filter((answer) => answer.decision === 'claimed')).toHaveLength(1);
    expect(await rowOf(file.db, id)).toMatchObject({ fence: 1, crash_count: 0 });
  });
});

describe('after a takeover the last owner', () => {
  /** A job whose first owner has been replaced. */
  async function takenOver(): Promise<string> {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    expect((await claimFree(file.db, id)).fence).toBe(2);
    return id;
  }

  it('cannot complete, fail, release or interrupt', async () => {
    const id = await takenOver();
    const error = '{"code":"HANDLER_ERROR","message":"late"}';
    for (const late of [
      settlement(id, 1, { result: '"zombie"' }),
      settlement(id, 1, { status: 'failed', outcome: 'error', result: null, error }),
      settlement(id, 1, { status: 'pending', outcome: 'error', result: null, error }),
      settlement(id, 1, { status: 'pending', outcome: 'interruption', result: null }),
      settlement(id, 1, { batch: { streamId: id, fence: 1, firstSeq: 0, events: ['{"type":"late"}'] } }),
    ]) {
      expect(await settleJobs(file.db, [late])).toHaveProperty('size', 0);
    }
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 2, result: null, error_count: 0 });
    expect(await journalOf(file.db, id)).toEqual([]);
    const ledger = await file.db
      .selectFrom('job_attempts')
      .select(['fence', 'outcome'])
      .where('job_id', '=', id)
      .orderBy('fence')
      .execute();
    expect(ledger).toEqual([
      { fence: 1, outcome: 'crash' },
      { fence: 2, outcome: null },
    ]);
  });

  it('cannot append, not even as the first to emit', async () => {
    const id = await takenOver();
    expect(
      await appendBatches(file.db, [{ streamId: id, fence: 1, firstSeq: 0, events: ['{"type":"late"}'] }]),
    ).toHaveProperty('size', 0);
    expect(
      await appendBatches(file.db, [{ streamId: id, fence: 2, firstSeq: 0, events: ['{"type":"new"}'] }]),
    ).toHaveProperty('size', 1);
    expect(
      await appendBatches(file.db, [{ streamId: id, fence: 1, firstSeq: 1, events: ['{"type":"late"}'] }]),
    ).toHaveProperty('size', 0);
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['new']);
  });

  it('cannot save a checkpoint', async () => {
    const id = await takenOver();
    expect(await saveCheckpoint(file.db, { id, fence: 1, value: '{}', seq: 0 })).toBe(false);
    expect(await saveCheckpoint(file.db, { id, fence: 2, value: '{}', seq: 0 })).toBe(true);
  });

  it('cannot hold its fence in a transaction', async () => {
    const id = await takenOver();
    await file.db.transaction().execute(async (trx) => {
      expect(await lockFence(trx, id, 1, 1_000)).toBeUndefined();
      expect(await lockFence(trx, id, 2, 1_000)).toBeDefined();
    });
  });

  it('cannot settle a job that was settled', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    expect(await settleJobs(file.db, [settlement(id, 1)])).toHaveProperty('size', 1);
    expect(await settleJobs(file.db, [settlement(id, 1, { result: '2' })])).toHaveProperty('size', 0);
    expect((await rowOf(file.db, id)).result).toBe('1');
  });

  it('cannot write after an outside ending, with or without a head', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    await requestCancel(file.db, 'default', id);
    await finishAbandoned(file.db, id, { resultTtlMs: 1_000, maxCrashes: 5 });
    expect(
      await appendBatches(file.db, [{ streamId: id, fence: 1, firstSeq: 0, events: ['{"type":"late"}'] }]),
    ).toHaveProperty('size', 0);
    expect(await settleJobs(file.db, [settlement(id, 1)])).toHaveProperty('size', 0);
    expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['cancelled']);
  });
});

describe('while a transaction holds the fence', () => {
  it('a heartbeat passes and a takeover waits its turn', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await file.db.transaction().execute(async (trx) => {
      expect(await lockFence(trx, id, 1, 10_000)).toBeDefined();
      await file.db
        .updateTable('jobs')
        .set({ lease_expires_at: sql`clock_timestamp() - interval '1 s'` })
        .where('id', '=', id)
        .where('fence', '=', 1)
        .execute();
      expect((await claimOne(file.db, id)).decision).toBe('busy');
    });
    expect((await claimOne(file.db, id)).decision).toBe('claimed');
  });
});

describe('redrive', () => {
  it('takes failed jobs only, resets the counters, and lets the fence and the stream go on', async () => {
    const id = await insertJob(file.db);
    expect(await redriveJob(file.db, id)).toBeUndefined();
    await claimFree(file.db, id);
    const error = '{"code":"HANDLER_ERROR","message":"no"}';
    await settleJobs(file.db, [settlement(id, 1, { status: 'failed', outcome: 'error', result: null, error })]);
    expect(await redriveJob(file.db, id)).toEqual({ queue: 'job', tenant: 'default', name: 'job', fence: 1 });
    expect(await rowOf(file.db, id)).toMatchObject({
      status: 'pending',
      error_count: 0,
      fence: 1,
      error: null,
      finished_at: null,
    });
    // The failure that readers saw in the row keeps its seq.
    expect((await journalOf(file.db, id)).map(({ event }) => event)).toEqual([
      { type: 'error', error: JSON.parse(error) },
    ]);
    expect(await claimFree(file.db, id)).toMatchObject({ fence: 2, nextSeq: 1, lastOutcome: 'redrive' });
  });

  it('sets every counter of the row to zero, one that is added later too', async () => {
    const { rows } = await sql<{ name: string }>`
      select column_name as name from information_schema.columns
      where table_name = 'jobs' and column_name like '%_count' order by 1`.execute(file.db);
    const counters = rows.map(({ name }) => name);
    expect(counters).toEqual(expect.arrayContaining(['crash_count', 'interruption_count']));
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await settleJobs(file.db, [settlement(id, 1, { status: 'failed', outcome: 'error', result: null, error: '{}' })]);
    const counted = Object.fromEntries(counters.map((name) => [name, 3]));
    await file.db.updateTable('jobs').set(counted).where('id', '=', id).execute();
    await redriveJob(file.db, id);
    const row: object = await rowOf(file.db, id);
    expect(row).toMatchObject(Object.fromEntries(counters.map((name) => [name, 0])));
  });
});

it('a claim and an outcome write to no index', async () => {
  const ids = [await insertJob(file.db), await insertJob(file.db)] as const;
  await file.db.transaction().execute(async (trx) => {
    const updates = async () => {
      const { rows } = await sql<{ all: number; heapOnly: number }>`
        select n_tup_upd::int as all, n_tup_hot_upd::int as "heapOnly" from pg_stat_xact_user_tables where relname = 'jobs'`.execute(
        trx,
      );
      return rows[0] ?? { all: 0, heapOnly: 0 };
    };
    const before = await updates();
    for (const id of ids) await claimFree(trx, id);
    const batch = { streamId: ids[1], fence: 1, firstSeq: 0, events: ['{"type":"end"}'] };
    await settleJobs(trx, [settlement(ids[0], 1), settlement(ids[1], 1, { batch })]);
    const after = await updates();
    expect([after.all - before.all, after.heapOnly - before.heapOnly]).toEqual([4, 4]);
  });
});
