/**
 * Postgres refuses connections for a while, with any code. Nothing that was asked of it then has been
 * done, so everything waits; a handler that ended meanwhile must not run twice.
 */
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { isTransient } from '../../src/db/transient.ts';
import { defineJob, type JobContext } from '../../src/index.ts';
import { journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { REFUSALS, type RefusingPostgres, refusingPostgres } from '../helpers/refusing-postgres.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };

function poolOn(url: string) {
  const db = createDb({ url, maxConnections: 2, applicationName: 'refused', onError: () => undefined });
  onTestFinished(() => db.close());
  const thrownBy = (ask: () => Promise<unknown>) =>
    ask().then(
      () => undefined,
      (error: unknown) => error,
    );
  return {
    db,
    statement: () => thrownBy(() => sql`select 1`.execute(db.kysely)),
    transaction: () => thrownBy(() => db.kysely.transaction().execute((trx) => sql`select 1`.execute(trx))),
    query: () => thrownBy(() => db.pool.query('select 1')),
  };
}

describe('a pool', () => {
  it.each(REFUSALS)('that has had a connection waits for one that is refused with %s', async (refusal) => {
    const front = await refusingPostgres(file.url);
    const pool = poolOn(front.url);
    expect(await pool.statement()).toBeUndefined();
    front.refuse([refusal]);
    // What was open may be found cut by its first statement.
    await expect
      .poll(async () => ((await pool.statement()) as Error).message && front.refused, WAIT)
      .toBeGreaterThan(0);
    for (const ask of [pool.statement, pool.transaction, pool.query]) {
      const error = await ask();
      expect(error).toBeInstanceOf(Error);
      expect(isTransient(error)).toBe(true);
    }
    front.accept();
    expect(await pool.statement()).toBeUndefined();
  });

  it.each(['28P01', '28000', '3D000', 'XX000'])('that never had one fails at once with %s', async (refusal) => {
    const front = await refusingPostgres(file.url);
    const pool = poolOn(front.url);
    front.refuse([refusal]);
    const error = await pool.statement();
    expect(error).toMatchObject({ code: refusal });
    expect(isTransient(error)).toBe(false);
  });

  it('that is closed fails for good', async () => {
    const pool = poolOn(file.url);
    expect(await pool.query()).toBeUndefined();
    await pool.db.close();
    expect(isTransient(await pool.query())).toBe(false);
  });

  it('waits for a connection that a pooler refuses in the answer to a statement, and for no other refused statement', async () => {
    const pool = poolOn(file.url);
    const fatal = Object.assign(new Error('server login failed'), { severity: 'FATAL', code: '28P01' });
    expect(isTransient(fatal)).toBe(true);
    const raised = await sql`do $$ begin raise exception 'no' using errcode = '28P01'; end $$`
      .execute(pool.db.kysely)
      .catch((error: unknown) => error);
    expect(raised).toMatchObject({ code: '28P01', severity: 'ERROR' });
    expect(isTransient(raised)).toBe(false);
  });
});

/** What a run does while Postgres refuses it. */
const MOMENTS = {
  'its handler returns': async () => undefined,
  'its handler emits': (ctx: JobContext) => ctx.emit({ type: 'said' }),
  'its handler saves a checkpoint': (ctx: JobContext) => ctx.checkpoint('here'),
  'its lease is renewed': async (_ctx: JobContext, front: RefusingPostgres) => {
    // A heartbeat is 100 ms, and the thread has a connection of its own.
    await expect.poll(() => front.refused, WAIT).toBeGreaterThan(5);
  },
};

describe('while Postgres refuses connections', () => {
  // Each moment with each code: jobs run beside each other, and each refused login takes the next code.
  const groups = [0, 1, 2, 3].map((part) => REFUSALS.filter((_, i) => i % 4 === part));

  it.each(groups.map((refusals) => [refusals.join(', '), refusals] as const))(
    'with %s, runs go on once',
    async (_title, refusals) => {
      const front = await refusingPostgres(file.url);
      const runs = new Map<string, number>();
      const refusing = Promise.withResolvers<void>();
      const job = defineJob({
        name: 'refused',
        input: z.object({ moment: z.string() }),
        attempts: 1,
        async run({ moment }, ctx) {
          runs.set(moment, (runs.get(moment) ?? 0) + 1);
          await refusing.promise;
          await MOMENTS[moment as keyof typeof MOMENTS]?.(ctx, front);
          return moment;
        },
      });
      const prefix = uniquePrefix();
      const worker = createTestFleet(front.url, [job], { prefix, heartbeatMs: 100 });
      const client = createTestFleet(file.url, [job], { prefix });
      await worker.work({ concurrency: 10 });
      const moments = Object.keys(MOMENTS);
      const handles = await Promise.all(moments.map((moment) => client.enqueue(job, { moment })));
      await expect.poll(() => runs.size, WAIT).toBe(moments.length);
      front.refuse(refusals);
      refusing.resolve();
      // Its claim is refused.
      handles.push(await client.enqueue(job, { moment: 'it is claimed' }));
      await expect.poll(() => front.refused, WAIT).toBeGreaterThan(refusals.length * 3);
      front.accept();
      const results = await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
      expect(results).toEqual([...moments, 'it is claimed']);
      expect([...runs.values()]).toEqual(results.map(() => 1));
      for (const { id } of handles)
        expect(await rowOf(file.db, id)).toMatchObject({
          status: 'completed',
          fence: 1,
          crash_count: 0,
          error_count: 0,
          interruption_count: 0,
        });
      const said = await journalOf(file.db, handles[1]?.id as string);
      expect(said.filter(({ event }) => event.type === 'said')).toHaveLength(1);
    },
  );
});
