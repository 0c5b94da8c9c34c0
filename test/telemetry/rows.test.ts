/** Gauges of rows: right whatever became of Redis, bounded in what they read, in time and in labels. */
import { sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { findBacklog } from '../../src/db/backlog.ts';
import { silentLogger } from '../../src/log.ts';
import { shareOf } from '../../src/runtime/shared-runtime.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { RowGauges } from '../../src/telemetry/row-gauges.ts';
import { backdateJob, claimFree, expireLease, insertJob, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { startTestRedis } from '../helpers/services.ts';
import { seriesOf } from './metrics-text.ts';

const file = useDatabase();

const LIMITS = { jobs: 100_000, tenants: 20, queues: 50, statementMs: 5_000 };

async function empty(): Promise<void> {
  await sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs cascade`.execute(file.db);
}

/** So many due jobs of a tenant. */
async function waiting(tenant: string, jobs: number, queue = 'job'): Promise<string[]> {
  const ids: string[] = [];
  for (let n = 0; n < jobs; n++) ids.push(await insertJob(file.db, { tenant, queue }));
  return ids;
}

it('count jobs by queue, tenant and state, with the age of the oldest, and are the same right after a FLUSHALL', async () => {
  await empty();
  const { redis, stop } = await startTestRedis();
  onTestFinished(stop);
  const fleet = createTestFleet(file.url, [], { redisUrl: redis.url });
  const metrics = new Metrics({ runtime: shareOf('fleet', fleet).runtime, rows: true, freshMs: 0 });
  onTestFinished(() => metrics.close());
  const [old] = await waiting('acme', 3);
  await backdateJob(file.db, old as string, 3_600_000);
  await waiting('zoo', 1, 'mail');
  await insertJob(file.db, { tenant: 'acme', delayMs: 3_600_000 });
  const [running, abandoned] = (await waiting('acme', 2)) as [string, string];
  await claimFree(file.db, running);
  await claimFree(file.db, abandoned);
  await expireLease(file.db, abandoned);
  const jobs = () =>
    metrics
      .render()
      .then((text) =>
        Object.fromEntries(
          [...seriesOf(text)].filter(([key]) => /^oncefleet_(jobs|due|delayed|uncounted|rows)/.test(key)),
        ),
      );
  const expected = {
    'oncefleet_jobs{queue="job",state="waiting",tenant="acme"}': 3,
    'oncefleet_jobs{queue="job",state="running",tenant="acme"}': 1,
    'oncefleet_jobs{queue="job",state="abandoned",tenant="acme"}': 1,
    'oncefleet_jobs{queue="mail",state="waiting",tenant="zoo"}': 1,
    oncefleet_due_jobs: 6,
    oncefleet_delayed_jobs: 1,
    oncefleet_uncounted_jobs: 0,
    oncefleet_rows_up: 1,
  };
  expect(await jobs()).toEqual(expected);
  const age = seriesOf(await metrics.render()).get(
    'oncefleet_oldest_job_seconds{queue="job",state="waiting",tenant="acme"}',
  );
  expect(age).toBeGreaterThan(3_590);
  expect(age).toBeLessThan(3_700);
  await redis.stop();
  expect(await jobs()).toEqual(expected);
});

it('name the tenants and queues with the most jobs; the others are "other", and none is left out', async () => {
  await empty();
  for (const [n, tenant] of ['a', 'b', 'c', 'd'].entries()) await waiting(tenant, 4 - n, `queue-${tenant}`);
  const { groups } = await findBacklog(file.db, { ...LIMITS, tenants: 2, queues: 3 });
  expect(groups.map(({ tenant, queue, jobs }) => `${tenant} ${queue} ${jobs}`).toSorted()).toEqual([
    'a queue-a 4',
    'b queue-b 3',
    'other other 1',
    'other queue-c 2',
  ]);
});

it('look at a bounded number of due jobs, oldest first, and say how many they leave out', async () => {
  await empty();
  const ids = await waiting('acme', 5);
  await backdateJob(file.db, ids[4] as string, 1_000_000);
  const { groups, due, uncounted } = await findBacklog(file.db, { ...LIMITS, jobs: 2 });
  expect(groups).toMatchObject([{ tenant: 'acme', jobs: 2 }]);
  expect(groups[0]?.oldestS).toBeGreaterThan(900);
  expect({ due, uncounted }).toEqual({ due: 5, uncounted: 3 });
});

it('are left out while Postgres does not answer in time: an old value would look like one of now', async () => {
  await empty();
  await waiting('acme', 1);
  const fleet = createTestFleet(file.url, []);
  const metrics = new Metrics({
    runtime: shareOf('fleet', fleet).runtime,
    rows: true,
    freshMs: 0,
    limits: { statementMs: 1_500 },
  });
  onTestFinished(() => metrics.close());
  expect(seriesOf(await metrics.render()).get('oncefleet_due_jobs')).toBe(1);
  const { promise: kept, resolve: letGo } = Promise.withResolvers<void>();
  const { promise: locked, resolve: haveLock } = Promise.withResolvers<void>();
  const holding = file.db.transaction().execute(async (trx) => {
    await sql`lock table oncefleet.unfinished_jobs in access exclusive mode`.execute(trx);
    haveLock();
    await kept;
  });
  await locked;
  const series = seriesOf(await metrics.render());
  // Postgres has given it up too: what waits for ever would take the pool's connections.
  const { rows: waits } = await sql`select from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'`.execute(file.db);
  letGo();
  await holding;
  expect(waits).toEqual([]);
  expect(series.get('oncefleet_rows_up')).toBe(0);
  expect([...series.keys()].filter((key) => /^oncefleet_(jobs|due_jobs|oldest)/.test(key))).toEqual([]);
  expect(seriesOf(await metrics.render()).get('oncefleet_due_jobs')).toBe(1);
});

it('are read once for all who ask within some seconds', async () => {
  await empty();
  await waiting('acme', 1);
  const gauges = new RowGauges({ db: file.db, log: silentLogger(), freshMs: 60_000 });
  const [first, second] = await Promise.all([gauges.read(), gauges.read()]);
  expect(first?.due).toBe(1);
  expect(second).toBe(first);
  await waiting('acme', 1);
  expect(await gauges.read()).toBe(first);
  const eager = new RowGauges({ db: file.db, log: silentLogger(), freshMs: 0 });
  expect((await eager.read())?.due).toBe(2);
  await waiting('acme', 1);
  expect((await eager.read())?.due).toBe(3);
});

it('count jobs that wait for a place by the name of the limit, without their keys', async () => {
  await sql`
    insert into oncefleet.limit_waits (job_id, key, priority, since) values
      (gen_random_uuid(), 'api/customer 1', 0, clock_timestamp() - interval '1 hour'),
      (gen_random_uuid(), 'api/customer 2', 0, clock_timestamp()),
      (gen_random_uuid(), '@tenant/acme', 0, clock_timestamp())`.execute(file.db);
  onTestFinished(async () => void (await file.db.deleteFrom('limit_waits').execute()));
  const metrics = new Metrics({
    runtime: shareOf('fleet', createTestFleet(file.url, [])).runtime,
    rows: true,
    freshMs: 0,
  });
  onTestFinished(() => metrics.close());
  const text = await metrics.render();
  const series = seriesOf(text);
  expect(series.get('oncefleet_limited_jobs{limit="api"}')).toBe(2);
  expect(series.get('oncefleet_limited_jobs{limit="@tenant"}')).toBe(1);
  expect(series.get('oncefleet_oldest_limited_seconds{limit="api"}')).toBeGreaterThan(3_590);
  expect(text).not.toContain('customer');
});
