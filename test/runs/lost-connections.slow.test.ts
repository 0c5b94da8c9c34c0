/**
 * What a call of the context does whose connection to Postgres is lost: nothing is counted against the job, and what
 * `ctx.transaction` writes is written once.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { sql } from 'kysely';
import { beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { FaultProxy } from '../../chaos/proxy.ts';
import { findCommit } from '../../src/db/jobs/fence.ts';
import { defineJob, type JobContext, NonRetryableError, RetryAfterError } from '../../src/index.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { REFUSALS, refusingPostgres } from '../helpers/refusing-postgres.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 60_000, interval: 10 };

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

beforeEach(async () => {
  await sql`truncate effects`.execute(file.db);
});

const insert = (ctx: JobContext, db: JobContext['db'] = ctx.db) =>
  sql`insert into effects values (${ctx.jobId})`.execute(db);

const countEffects = async () => {
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from effects`.execute(file.db);
  return rows[0]?.n;
};

/** Ends the backends of the worker's pool. */
const terminate = () =>
  sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name like 'oncefleet %' and application_name not like '%test'`.execute(
    file.db,
  );

const endOwn = (db: JobContext['db']) => sql`select pg_terminate_backend(pg_backend_pid())`.execute(db);

/** A worker and a client of a fleet with one job, which by default is tried once. */
function fleetOf(databaseUrl: string, run: (ctx: JobContext) => Promise<unknown>, attempts = 1) {
  const seen = { runs: 0 };
  const job = defineJob({
    name: 'lost',
    input: z.object({}),
    attempts,
    run: async (_input, ctx) => {
      seen.runs++;
      return run(ctx);
    },
  });
  const prefix = uniquePrefix();
  const worker = createTestFleet(databaseUrl, [job], { prefix });
  const client = createTestFleet(file.url, [job], { prefix });
  const ended = async () => {
    await worker.work();
    const { id } = await client.enqueue(job, {});
    await expect.poll(async () => (await rowOf(file.db, id)).status, WAIT).toMatch(/completed|failed/);
    return { row: await rowOf(file.db, id), record: await client.get(id), runs: seen.runs };
  };
  return { ended };
}

async function proxied() {
  const target = new URL(file.url);
  const proxy = await FaultProxy.start({ host: target.hostname, port: Number(target.port) });
  onTestFinished(() => proxy.close());
  target.host = `127.0.0.1:${proxy.port}`;
  return { proxy, url: target.href };
}

/** Stages a fault of the statement that the worker sends next; `arrived` says when its effect is there. */
interface Stage {
  url: string;
  stage(arrived: () => Promise<boolean>): Promise<void>;
}

const FAULTS: Record<string, () => Promise<Stage>> = {
  'its backend is terminated': async () => ({
    url: file.url,
    stage: async () => {
      await terminate();
    },
  }),
  'connections are refused with many a code': async () => {
    const front = await refusingPostgres(file.url);
    return {
      url: front.url,
      stage: async () => {
        front.refuse(REFUSALS);
        // Not awaited: what is to be refused comes after this.
        void expect
          .poll(() => front.refused, WAIT)
          .toBeGreaterThan(3)
          .then(front.accept, front.accept);
      },
    };
  },
  'its connection is cut before Postgres has heard of it': async () => {
    const { proxy, url } = await proxied();
    return {
      url,
      stage: async () => {
        proxy.set({ kind: 'hold' });
        void turn()
          .then(() => turn())
          .then(() => {
            proxy.set({ kind: 'cut' });
            proxy.set({ kind: 'open' });
          });
      },
    };
  },
  'its connection is cut after Postgres has done it': async () => {
    const { proxy, url } = await proxied();
    return {
      url,
      stage: async (arrived) => {
        proxy.set({ kind: 'mute' });
        const cut = () => {
          proxy.set({ kind: 'cut' });
          proxy.set({ kind: 'open' });
        };
        void expect.poll(arrived, WAIT).toBe(true).then(cut, cut);
      },
    };
  },
};

const isWritten = async () => ((await countEffects()) ?? 0) > 0;
const BEFORE_HEARD = 'its connection is cut before Postgres has heard of it';
const AFTER_DONE = 'its connection is cut after Postgres has done it';

describe.each(Object.keys(FAULTS))('where %s', (fault) => {
  /** Runs a job that meets the fault once. */
  async function meet(
    call: (ctx: JobContext, strike: (arrived: () => Promise<boolean>) => Promise<void>) => Promise<unknown>,
  ) {
    const { url, stage } = await (FAULTS[fault] as () => Promise<Stage>)();
    let struck = false;
    const strike = async (arrived: () => Promise<boolean>) => {
      if (struck) return;
      struck = true;
      await stage(arrived);
    };
    const { row, record, runs } = await fleetOf(url, async (ctx) => {
      await call(ctx, strike);
      return 'done';
    }).ended();
    expect(row).toMatchObject({ status: 'completed', error_count: 0, crash_count: 0 });
    expect(row.interruption_count).toBe(runs - 1);
    return { runs, row, record };
  }

  it('ctx.transaction, about to begin, waits, and is done once', async () => {
    const { runs } = await meet(async (ctx, strike) => {
      // `begin` leaves no trace, and its answer is lost with it.
      await strike(async () => true);
      await ctx.transaction(async (trx) => insert(ctx, trx as never));
    });
    expect([runs, await countEffects()]).toEqual([1, 1]);
  });

  it('ctx.transaction, between two statements, begins again, and is done once', async () => {
    let calls = 0;
    const { runs } = await meet((ctx, strike) =>
      ctx.transaction(async (trx) => {
        calls++;
        await insert(ctx, trx as never);
        await strike(async () => true);
        await sql`select 1`.execute(trx);
      }),
    );
    expect([runs, await countEffects()]).toEqual([1, 1]);
    expect(calls).toBe(2);
  });

  it('ctx.transaction, at its COMMIT, is done once: its effects run again only if it had none', async () => {
    let calls = 0;
    let returned: unknown;
    const { runs } = await meet(async (ctx, strike) => {
      returned = await ctx.transaction(async (trx) => {
        calls++;
        await insert(ctx, trx as never);
        await strike(isWritten);
        return calls;
      });
    });
    expect([runs, await countEffects()]).toEqual([1, 1]);
    expect(calls).toBe(fault === AFTER_DONE ? 1 : 2);
    expect(returned).toBe(calls);
  });

  it('ctx.complete in a transaction, at its COMMIT, completes the job once', async () => {
    const { runs } = await meet((ctx, strike) =>
      ctx.transaction(async (trx) => {
        await insert(ctx, trx as never);
        await ctx.complete(trx, 'complete');
        await strike(isWritten);
      }),
    );
    expect([runs, await countEffects()]).toEqual([1, 1]);
  });

  it('ctx.checkpoint waits', async () => {
    const { runs, row } = await meet(async (ctx, strike) => {
      await strike(async () => (await rowOf(file.db, ctx.jobId)).checkpoint !== null);
      await ctx.checkpoint('here');
    });
    expect([runs, row.checkpoint]).toEqual([1, '"here"']);
  });

  it('a select by ctx.db interrupts the attempt, and costs none', async () => {
    const { runs } = await meet(async (ctx, strike) => {
      await strike(async () => true);
      await sql`select 1`.execute(ctx.db);
    });
    // A pool that has heard in time that its connections are gone takes a new one.
    expect([1, 2]).toContain(runs);
    if (fault === BEFORE_HEARD || fault === AFTER_DONE) expect(runs).toBe(2);
  });

  it('an insert by ctx.db interrupts the attempt, which says why; the next may find it done', async () => {
    const { runs, record } = await meet(async (ctx, strike) => {
      await strike(isWritten);
      await insert(ctx);
    });
    expect(await countEffects()).toBe(fault === AFTER_DONE ? 2 : 1);
    if (runs === 2)
      expect(record?.attempts[0]).toMatchObject({
        outcome: 'interruption',
        error: { code: 'STORE_UNAVAILABLE', message: expect.any(String) },
      });
  });
});

describe('an attempt that loses its connection', () => {
  it('is not interrupted more than ten times in a row: then it has failed', async () => {
    const { row, runs, record } = await fleetOf(file.url, (ctx) => endOwn(ctx.db)).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 10, error_count: 1 });
    expect(runs).toBe(11);
    expect(record?.error?.message).toMatch(/terminating connection/);
  });

  it('counts anew after one that ended otherwise', async () => {
    let runs = 0;
    const run = async (ctx: JobContext) => {
      runs++;
      if (runs === 7) throw new RetryAfterError('in between', 0);
      if (runs < 13) await endOwn(ctx.db);
    };
    const { row } = await fleetOf(file.url, run, 2).ended();
    expect(row).toMatchObject({ status: 'completed', interruption_count: 11, error_count: 1 });
  });

  it('in a transaction runs its effects four times, and is then interrupted', async () => {
    const calls = [0, 0];
    const { row, runs } = await fleetOf(file.url, (ctx) =>
      ctx.transaction(async (trx) => {
        calls[ctx.attempt - 1] = (calls[ctx.attempt - 1] ?? 0) + 1;
        if (ctx.attempt === 1) await endOwn(trx as never);
      }),
    ).ended();
    expect(row).toMatchObject({ status: 'completed', interruption_count: 1, error_count: 0 });
    expect([runs, calls]).toEqual([2, [4, 1]]);
  });

  it.each([
    ['says that trying again is pointless', (cause: unknown) => new NonRetryableError('no', { cause }), 'no'],
    ['throws an error of its own, without a cause', () => new Error('mine'), 'mine'],
  ])('and %s has failed', async (_name, toError, message) => {
    const { row, record } = await fleetOf(file.url, async (ctx) => {
      await endOwn(ctx.db).catch((error: unknown) => {
        throw toError(error);
      });
    }).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
    expect(record?.error?.message).toBe(message);
  });

  it('and names it as the cause of an error is interrupted', async () => {
    const { row } = await fleetOf(file.url, async (ctx) => {
      if (ctx.attempt > 1) return;
      await endOwn(ctx.db).catch((cause: unknown) => {
        throw new Error('the step failed', { cause });
      });
    }).ended();
    expect(row).toMatchObject({ status: 'completed', interruption_count: 1 });
  });
});

describe('what is no lost connection of the fleet', () => {
  const refusedElsewhere = () => fetch('http://127.0.0.1:1/');

  it('is the refused connection of another server, which fails the attempt', async () => {
    const { row } = await fleetOf(file.url, refusedElsewhere).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
  });

  it('is that of another server inside a transaction, whose effects do not run again', async () => {
    let calls = 0;
    const { row } = await fleetOf(file.url, (ctx) =>
      ctx.transaction(async () => {
        calls++;
        throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
      }),
    ).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
    expect(calls).toBe(1);
  });

  it('is an error of the effects, though the rollback after it finds the connection lost', async () => {
    let calls = 0;
    const { row, record } = await fleetOf(file.url, (ctx) =>
      ctx.transaction(async (trx) => {
        calls++;
        await endOwn(trx as never).catch(() => undefined);
        throw new Error('mine');
      }),
    ).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
    expect([calls, record?.error?.message]).toEqual([1, 'mine']);
  });

  it('is a transaction that its handler left idle for too long', async () => {
    let calls = 0;
    const { row } = await fleetOf(file.url, (ctx) =>
      ctx.transaction(async (trx) => {
        calls++;
        const { rows } = await sql<{ pid: number }>`
          select pg_backend_pid() as pid, set_config('idle_in_transaction_session_timeout', '50', true)`.execute(trx);
        const isThere = async () =>
          (await sql`select from pg_stat_activity where pid = ${rows[0]?.pid}`.execute(file.db)).rows.length;
        await expect.poll(isThere, WAIT).toBe(0);
        await sql`select 1`.execute(trx);
      }),
    ).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
    expect(calls).toBe(1);
  });

  it('is a statement that was cancelled', async () => {
    const { row } = await fleetOf(file.url, (ctx) =>
      ctx.db.transaction().execute(async (trx) => {
        await sql`set local statement_timeout = 20`.execute(trx);
        await sql`select pg_sleep(10)`.execute(trx);
      }),
    ).ended();
    expect(row).toMatchObject({ status: 'failed', interruption_count: 0 });
  });
});

it('what became of a COMMIT is known by the server that had it, and by no other', async () => {
  const mark = await file.db.transaction().execute(async (trx) => {
    const { rows } = await sql<{ xid: string; server: string }>`
      select pg_current_xact_id()::text as xid, extract(epoch from pg_postmaster_start_time())::text as server`.execute(
      trx,
    );
    return rows[0] as { xid: string; server: string };
  });
  expect(await findCommit(file.db, mark)).toBe('committed');
  expect(await findCommit(file.db, { ...mark, server: '1' })).toBe('unknown');
});
