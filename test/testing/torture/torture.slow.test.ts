import { sql } from 'kysely';
import { createTestFleet, type TestFleet, TortureError, torture } from 'oncefleet/testing';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { z } from 'zod';
import { CHARGES_TABLE, naiveCharge, repairedCharge } from '../../../examples/charge-job.ts';
import { defineJob, type JobContext } from '../../../src/index.ts';
import { testRedisUrl } from '../../helpers/services.ts';

const ORDER = { order: 'A-1', cents: 4_200 };
let fleet: TestFleet;

beforeAll(async () => {
  fleet = await createTestFleet({ databaseUrl: inject('services').serverUrl, redisUrl: testRedisUrl() });
  await fleet.pool.query(CHARGES_TABLE);
});

afterAll(() => fleet?.close());

async function failureOf(promise: Promise<unknown>): Promise<TortureError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(TortureError);
  return error as TortureError;
}

describe('torture of the example that charges a card', () => {
  it('breaks the naive handler where its worker dies after the charge', async () => {
    const error = await failureOf(
      torture(naiveCharge, { fleet, input: ORDER, only: ['crash before ctx.db #1', 'crash after ctx.db #1'] }),
    );
    expect(error.failures).toEqual([
      { schedule: 'crash after ctx.db #1', problems: ['table charges has 2 rows of this job, baseline 1'] },
    ]);
    expect(error.code).toBe('TORTURE_FAILED');
    expect(error.message).toContain(`torture(charge, { …, only: 'crash after ctx.db #1' })`);
  });

  it('breaks it in every other way that runs it twice', async () => {
    const lost: object[] = [];
    const error = await failureOf(
      torture(naiveCharge, {
        fleet,
        input: ORDER,
        check({ schedule, job: { crashCount, interruptionCount } }) {
          if (schedule.startsWith('lost lease')) lost.push({ schedule, crashCount, interruptionCount });
        },
      }),
    );
    // Another run had taken it; none of them was given back instead.
    expect(lost).toEqual(
      ['ctx.emit #1', 'ctx.db #1', 'ctx.emit #2'].map((call) => ({
        schedule: `lost lease at ${call}`,
        crashCount: 1,
        interruptionCount: 0,
      })),
    );
    const broken = error.failures.map(({ schedule }) => schedule);
    for (const schedule of [
      'crash before ctx.emit #2',
      'error after ctx.db #1',
      'pause before ctx.db #1',
      'overlap at ctx.db #1',
      'lost lease at ctx.db #1',
      'interrupt at ctx.db #1',
      'crash before settle',
      'pause before settle',
    ])
      expect(broken).toContain(schedule);
    for (const schedule of [
      'crash before run',
      'crash before ctx.db #1',
      'duplicate at ctx.db #1',
      'duplicate after settle',
    ])
      expect(broken).not.toContain(schedule);
  }, 60_000);

  it('holds for the repaired one, whatever happens where', async () => {
    const report = await torture(repairedCharge, {
      fleet,
      input: ORDER,
      check: async ({ pool, result, job, rows }) => {
        expect(result).toEqual({ charged: 4_200 });
        expect(rows).toMatchObject({ charges: 1 });
        expect(job.leaseOwner).toBeNull();
        const charged = await pool.query('select sum(cents)::int as cents from charges');
        expect(charged.rows).toEqual([{ cents: 4_200 }]);
      },
    });
    expect(report.calls).toEqual(['ctx.emit #1', 'ctx.transaction #1', 'ctx.emit #2', 'ctx.complete #1']);
    expect(report.schedules).toContain('crash before the commit of ctx.transaction #1');
    expect(report.skippedCalls).toBe(0);
    expect(report.runs).toBeGreaterThan(report.schedules.length);
  }, 60_000);
});

describe('torture', () => {
  it('finds a checkpoint that the next run does not go on from', async () => {
    const steps = (resume: boolean) =>
      defineJob({
        name: 'steps',
        input: z.object({}),
        run: async (_input, ctx: JobContext) => {
          const from = resume ? ((ctx.resumedFrom as number | undefined) ?? 0) : 0;
          for (let step = from; step < 3; step++) {
            await ctx.emit({ type: 'step', step });
            await ctx.checkpoint(step + 1);
          }
        },
      });
    const options = { fleet, input: {}, only: ['crash after ctx.checkpoint #1', 'pause after ctx.checkpoint #2'] };
    const error = await failureOf(torture(steps(false), options));
    expect(error.failures.map(({ schedule }) => schedule)).toEqual(options.only);
    expect(error.message).toContain('stream [{"type":"step","step":0},{"type":"step","step":0}');
    await torture(steps(true), { fleet, input: {} });
  }, 60_000);

  it('finds a result that depends on the attempt', async () => {
    const error = await failureOf(
      torture(async (_input: undefined, ctx) => ctx.attempt, { fleet, only: 'crash before settle' }),
    );
    expect(error.failures).toEqual([{ schedule: 'crash before settle', problems: ['result 2, baseline 1'] }]);
    await torture(async (_input: undefined, ctx) => ctx.attempt, { fleet, same: { result: false } });
  });

  it('finds a transaction that is committed again, and rolls back what a dead run had open', async () => {
    const handler = async (_input: undefined, ctx: JobContext) =>
      ctx.transaction(async (trx) => {
        await sql`insert into charges (order_id, cents) values ('A', 1)`.execute(trx);
      });
    const error = await failureOf(torture(handler, { fleet, faults: ['crash'] }));
    expect(error.failures.map(({ schedule }) => schedule)).toEqual([
      'crash after ctx.transaction #1',
      'crash before settle',
    ]);
  });

  it('rolls back a transaction on ctx.db where its run dies or its connection breaks', async () => {
    const handler = async (_input: undefined, ctx: JobContext) =>
      ctx.db.transaction().execute(async (trx) => {
        const { rows } = await sql`select 1 from charges where order_id = ${ctx.jobId}`.execute(trx);
        if (rows.length > 0) return;
        await sql`insert into charges (order_id, cents) values (${ctx.jobId}, 1)`.execute(trx);
        await sql`insert into charges (order_id, cents) values (${ctx.jobId}, 2)`.execute(trx);
      });
    const report = await torture(handler, { fleet, faults: ['crash', 'error'] });
    // begin, select, two inserts, commit
    expect(report.calls).toHaveLength(5);
    expect(report.schedules).toContain('error after ctx.db #5');
  });

  it('leaves a dead run dead: nothing of it runs on, not even a finally', async () => {
    const cleanups: number[] = [];
    const handler = async (_input: undefined, ctx: JobContext) => {
      try {
        await ctx.emit({ type: 'working' });
      } finally {
        cleanups.push(ctx.attempt);
      }
    };
    await torture(handler, { fleet, only: 'crash before ctx.emit #1' });
    // One of the baseline run, one of the run that took over; none of the one that died.
    expect(cleanups).toEqual([1, 2]);
  });

  it('lets a frozen run go on as a zombie, whose writes are refused', async () => {
    const codes: (string | undefined)[] = [];
    const handler = async (_input: undefined, ctx: JobContext) => {
      await ctx.emit({ type: 'working' });
      await ctx.checkpoint({}).catch((error: { code?: string }) => {
        codes.push(error.code);
        throw error;
      });
    };
    await torture(handler, { fleet, only: ['pause before ctx.checkpoint #1', 'overlap at ctx.checkpoint #1'] });
    expect(codes).toEqual(['LEASE_LOST', 'LEASE_LOST']);
  });

  it('takes some of many calls, the first and the last among them, and says how many it left out', async () => {
    const handler = async (_input: undefined, ctx: JobContext) => {
      for (let i = 0; i < 20; i++) await ctx.emit({ type: 'n', i });
    };
    const report = await torture(handler, { fleet, maxCalls: 3, faults: ['crash'] });
    expect(report.schedules.filter((name) => name.startsWith('crash before ctx.emit'))).toEqual([
      'crash before ctx.emit #1',
      'crash before ctx.emit #11',
      'crash before ctx.emit #20',
    ]);
    expect(report.skippedCalls).toBe(17);
  });

  it('calls check after every run, and reports what it throws', async () => {
    const seen: string[] = [];
    const error = await failureOf(
      torture(async () => 1, {
        fleet,
        only: ['crash before run', 'crash before settle'],
        check: ({ schedule }) => {
          seen.push(schedule);
          if (schedule === 'crash before run') throw new Error('not so');
        },
      }),
    );
    expect(seen).toEqual(['baseline', 'crash before run', 'crash before settle']);
    expect(error.failures).toEqual([{ schedule: 'crash before run', problems: ['not so'] }]);
  });

  it('runs no schedule of a handler whose baseline run fails', async () => {
    const error = await failureOf(
      torture(
        async () => {
          throw new Error('broken');
        },
        { fleet },
      ),
    );
    expect(error.failures).toEqual([{ schedule: 'baseline', problems: ['the job is failed: HANDLER_ERROR broken'] }]);
  });

  it('refuses a schedule that does not exist, and lists those that do', async () => {
    await expect(torture(async () => 1, { fleet, only: 'crash after lunch' })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringContaining('crash before settle'),
    });
  });

  it.each([
    [{ faults: ['crush'] }, 'faults[0]'],
    [{ maxCalls: 0 }, 'maxCalls'],
    [{ maxCalls: 'all' }, 'maxCalls'],
    [{ timeoutMs: -1 }, 'timeoutMs'],
    [{ check: 5 }, 'check'],
    [{ same: { results: false } }, 'results'],
    [{ cheque: () => {} }, 'cheque'],
  ])('refuses %j instead of torturing less than it was told', async (options, told) => {
    await expect(torture(async () => 1, { fleet, ...(options as object) })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringContaining(told),
    });
  });
});
