/** Searches in a table with many rows of many tenants: what they read, and what happens when many search at once. */
import { type RawBuilder, sql } from 'kysely';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import {
  boundSearch,
  type FailedFilter,
  failedStatement,
  type JobFilter,
  SCANNED_ROWS,
  searchJobs,
  searchStatement,
} from '../../src/db/jobs/search.ts';
import { toProblem } from '../../src/http/problem.ts';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

const ROWS = 120_000;
const LIMIT = 21;

/** Of row i, so that later rows are newer. */
const idOf = (i: number) => `01890000-0000-7000-8000-${i.toString(16).padStart(12, '0')}`;

/** Two thirds are of `big`, one in a thousand of `small`; keys repeat every 40,000 rows, one name is rare, few have failed. */
beforeAll(async () => {
  await sql`
    insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, key_released, fingerprint, input, options, run_at, status, finished_at)
    select ('01890000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid,
      case when i % 1000 = 7 then 'small' when i % 3 = 0 then 'other' else 'big' end,
      case when i % 20000 = 1 then 'rare' else 'common' end, 'q',
      case when i % 5 = 0 then null else 'key ' || i % 40000 end, true,
      'fingerprint', '{}', '{}', now(), case when i % 30000 = 10 then 'failed' when i % 2 = 0 then 'pending' else 'completed' end,
      case when i % 2 = 0 and i % 30000 <> 10 then null else now() end
    from generate_series(1, ${ROWS}) i`.execute(file.db);
}, 60_000);

const filters: Record<string, Omit<JobFilter, 'tenant'>> = {
  'of all jobs': {},
  'by a key': { key: 'key 4' },
  'by a key that is not there': { key: 'none' },
  'by a name': { name: 'common' },
  'by a rare name': { name: 'rare' },
  'by a name that is not there': { name: 'none' },
  'by a status': { status: 'completed' },
  'by a rare status': { status: 'failed' },
  'by a status that no job has': { status: 'cancelled' },
  'by key and name': { key: 'key 4', name: 'rare' },
  'by key and status': { key: 'key 4', status: 'failed' },
  'by name and status': { name: 'common', status: 'failed' },
  'by rare name and status': { name: 'rare', status: 'cancelled' },
  'by all': { key: 'key 4', name: 'common', status: 'pending' },
};

interface Plan {
  'Node Type': string;
  'Relation Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  Plans?: Plan[];
}

function nodesOf(plan: Plan): Plan[] {
  return [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];
}

/** What a statement does with the table of jobs. */
async function explain(statement: RawBuilder<unknown>): Promise<{ nodes: string[]; rows: number }> {
  const { rows } = await file.db.transaction().execute(async (trx) => {
    await boundSearch(trx, 60_000);
    return sql<{ 'QUERY PLAN': string }>`explain (analyze, format json) ${statement}`.execute(trx);
  });
  const [{ Plan: plan }] = JSON.parse(rows[0]?.['QUERY PLAN'] as string) as [{ Plan: Plan }];
  const nodes = nodesOf(plan).filter((node) => node['Relation Name'] === 'jobs');
  const read = nodes.map(
    (node) => (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'],
  );
  return { nodes: nodes.map((node) => node['Node Type']), rows: read.reduce((sum, n) => sum + n, 0) };
}

describe.each(['without statistics', 'with statistics'])('a search (%s)', (when) => {
  beforeAll(async () => {
    if (when === 'with statistics') await sql`analyze oncefleet.jobs`.execute(file.db);
  });

  const cases = Object.entries(filters).flatMap(([what, filter]) =>
    ['big', 'small', 'nobody'].flatMap((tenant) =>
      [undefined, idOf(ROWS / 2)].map((before) => ({ what, tenant, before, filter: { ...filter, tenant, before } })),
    ),
  );

  it.each(cases)('$what, of tenant $tenant, before $before, reads a bounded number of rows', async ({ filter }) => {
    const { nodes, rows } = await explain(searchStatement(filter, LIMIT));
    expect(nodes).not.toContain('Seq Scan');
    // Of a tenant with most of the rows the primary key is as good an order: others' rows are passed over.
    expect(rows).toBeLessThanOrEqual(2 * (filter.status === undefined ? LIMIT : SCANNED_ROWS));
  });
});

describe('pages', () => {
  it.each(Object.entries(filters))(
    '%s, put together, are all that match, each once and newest first',
    async (_what, filter) => {
      for (const tenant of ['big', 'small']) {
        const found: string[] = [];
        let before: string | undefined;
        do {
          const page = await searchJobs(file.db, { ...filter, tenant, before }, 5_000);
          found.push(...page.ids);
          before = page.end;
        } while (before !== undefined);
        let query = file.db.selectFrom('jobs').select('id').where('tenant', '=', tenant);
        if (filter.key !== undefined) query = query.where('idempotency_key', '=', filter.key);
        if (filter.name !== undefined) query = query.where('name', '=', filter.name);
        if (filter.status !== undefined) query = query.where('status', '=', filter.status);
        const expected = (await query.orderBy('id', 'desc').execute()).map(({ id }) => id);
        expect(found).toEqual(expected);
      }
    },
  );

  it('of a fleet look through many rows for a rare status, and go on where they stopped', async () => {
    const job = defineJob({ name: 'common', input: z.looseObject({}), run: async () => null });
    const fleet = createTestFleet(file.url, [job]);
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await fleet.find({
        tenant: 'big',
        status: 'failed',
        limit: 2,
        ...(cursor === undefined ? {} : { cursor }),
      });
      expect(page.jobs.length).toBeLessThanOrEqual(2);
      found.push(...page.jobs.map(({ id }) => id));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    const all = await file.db
      .selectFrom('jobs')
      .select('id')
      .where('tenant', '=', 'big')
      .where('status', '=', 'failed')
      .orderBy('id', 'desc')
      .execute();
    expect(found).toEqual(all.map(({ id }) => id));
  });
});

describe('failed jobs', () => {
  const wanted: Record<string, Omit<FailedFilter, 'tenant'>> = {
    'of all names': {},
    'of a name': { name: 'common' },
    'of a name that is not there': { name: 'none' },
    'with a code that none has': { code: 'NONE' },
    'of the last hour': { withinMs: 3_600_000 },
  };

  it.each(
    Object.entries(wanted).flatMap(([what, filter]) =>
      ['big', 'small', 'nobody'].flatMap((tenant) =>
        [undefined, idOf(ROWS / 2)].map((after) => ({ what, tenant, after, filter: { ...filter, tenant } })),
      ),
    ),
  )('$what, of tenant $tenant, after $after, are looked for in a bounded number of rows', async ({ filter, after }) => {
    const { nodes, rows } = await explain(failedStatement(filter, after));
    expect(nodes).not.toContain('Seq Scan');
    expect(rows).toBeLessThanOrEqual(2 * SCANNED_ROWS);
  });

  it('of many rows are redriven longest failed first, wherever they stand among them', async () => {
    const job = defineJob({ name: 'common', queue: 'q', input: z.looseObject({}), run: async () => null });
    const fleet = createTestFleet(file.url, [job]);
    const failed = [60_010, 10, 90_010, 30_010].map(idOf);
    for (const [n, id] of failed.entries())
      await sql`update oncefleet.jobs set finished_at = now() - ${10 - n} * interval '1 day' where id = ${id}`.execute(
        file.db,
      );
    const pending = async () =>
      (await fleet.find({ tenant: 'big', status: 'failed' })).jobs.map(({ id }) => failed.indexOf(id)).sort();
    for (const left of [[2, 3], []]) {
      expect(await fleet.redriveMany({ tenant: 'big', limit: 2 })).toMatchObject({ matched: 2, redriven: 2 });
      expect(await pending()).toEqual(left);
    }
  });
});

describe('when many search at once', () => {
  const job = defineJob({ name: 'common', input: z.looseObject({}), run: async () => null });

  it('others find a connection, and who waits too long is told BUSY', async () => {
    const fleet = createTestFleet(file.url, [job], { databasePoolSize: 4 });
    const lock = await file.pool.connect();
    onTestFinished(() => lock.release());
    await lock.query('begin; lock table oncefleet.jobs in access exclusive mode');
    const searches = Promise.allSettled(Array.from({ length: 140 }, () => fleet.find({ tenant: 'big' })));
    // Nothing is free of the lock but what reads other tables.
    expect(await fleet.retentionPolicies()).toEqual([]);
    await lock.query('rollback');
    const settled = await searches;
    const refused = settled
      .filter((one) => one.status === 'rejected')
      .map((one) => (one as PromiseRejectedResult).reason);
    expect(refused.map(({ code }) => code)).toEqual(Array(38).fill('BUSY'));
    expect(await fleet.find({ tenant: 'big', limit: 1 })).toMatchObject({ jobs: [{ tenant: 'big' }] });
  });

  it('a search that takes too long is ended, and told BUSY', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const lock = await file.pool.connect();
    onTestFinished(() => lock.release());
    await lock.query('begin; lock table oncefleet.jobs in access exclusive mode');
    await expect(fleet.find({ tenant: 'big' })).rejects.toMatchObject({ code: 'BUSY' });
    await lock.query('rollback');
  });

  it('a pool without a free connection is told apart from a Postgres that cannot be reached', () => {
    const taken = new Error('timeout exceeded when trying to connect');
    expect(toProblem(taken, 'id')).toMatchObject({ status: 503, code: 'BUSY' });
    expect(toProblem(new Error('x', { cause: taken }), 'id')).toMatchObject({ code: 'BUSY' });
    const away = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    expect(toProblem(away, 'id')).toMatchObject({ status: 503, code: 'STORE_UNAVAILABLE' });
  });
});
