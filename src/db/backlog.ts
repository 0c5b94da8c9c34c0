/** What waits and runs, for gauges: read from rows, so that it is right whatever became of Redis or of a process. */
import { type Kysely, sql } from 'kysely';
import { leaseHeld, unfinished } from './jobs/states.ts';
import type { Database } from './schema.ts';

export interface BacklogLimits {
  /** Due jobs that are looked at, oldest first: each costs a look at its row, some 5 µs. */
  jobs: number;
  /** Tenants and queues that are named, those with the most jobs; the others are `other`. */
  tenants: number;
  queues: number;
  /** How long a statement may take, in milliseconds. */
  statementMs: number;
}

/** Jobs of one queue and tenant in one state; `abandoned`: they run, and their lease is over. */
interface BacklogGroup {
  queue: string;
  tenant: string;
  state: 'waiting' | 'running' | 'abandoned';
  jobs: number;
  /** Since the oldest of them was due, in seconds. */
  oldestS: number;
}

export interface Backlog {
  groups: BacklogGroup[];
  /** Jobs that may run or run now, and those that are not due yet. */
  due: number;
  delayed: number;
  /** Due jobs that `groups` does not have, beyond the limit. */
  uncounted: number;
  /** Committed jobs that wait to be given to BullMQ. */
  outbox: number;
  /** Poisoned jobs whose `onPoison` has not resolved. */
  alerts: number;
  pausedQueues: number;
  /** Jobs that wait for a place, by limit: those with the most of them. */
  limits: { limit: string; jobs: number; oldestS: number }[];
  /** Since the reconciler finished a round, in seconds; null where none is known. */
  roundAgeS: number | null;
}

/**
 * One transaction of three statements, each bounded in time.
 *
 * @throws Postgres's 57014 it took too long
 */
export async function findBacklog(db: Kysely<Database>, limits: BacklogLimits): Promise<Backlog> {
  return db.transaction().execute(async (trx) => {
    await sql`select set_config('statement_timeout', ${String(limits.statementMs)}, true)`.execute(trx);
    const totals = await sql<Omit<Backlog, 'groups' | 'limits' | 'uncounted'>>`
      select
        count(*) filter (where run_at <= statement_timestamp()) as due,
        count(*) filter (where run_at > statement_timestamp()) as delayed,
        (select count(*) from oncefleet.dispatch_outbox) as outbox,
        (select count(*) from oncefleet.poison_alerts) as alerts,
        (select count(*) from oncefleet.paused_queues) as "pausedQueues",
        (select extract(epoch from statement_timestamp() - finished_at)::float8 from oncefleet.reconciler_rounds) as "roundAgeS"
      from oncefleet.unfinished_jobs`.execute(trx);
    // `offset 0` keeps the look at rows as it is written, by primary key: a join would read all jobs for a few.
    const { rows: groups } = await sql<BacklogGroup>`
      with due as materialized (
        select job_id, run_at from oncefleet.unfinished_jobs
        where run_at <= statement_timestamp() order by run_at, job_id limit ${limits.jobs}
      ), seen as (
        select j.queue, j.tenant, d.run_at,
          case when j.status = 'pending' then 'waiting' when ${sql.raw(leaseHeld('j'))} then 'running' else 'abandoned' end as state
        from due d
        cross join lateral (select queue, tenant, status, lease_expires_at from oncefleet.jobs where id = d.job_id offset 0) j
        where ${sql.raw(unfinished('j'))}
      ), grouped as materialized (
        select queue, tenant, state, count(*) as jobs, min(run_at) as oldest from seen group by queue, tenant, state
      ), tenants as (
        select tenant from grouped group by tenant order by sum(jobs) desc, tenant limit ${limits.tenants}
      ), queues as (
        select queue from grouped group by queue order by sum(jobs) desc, queue limit ${limits.queues}
      )
      select q.name as queue, t.name as tenant, g.state, sum(g.jobs)::bigint as jobs,
        extract(epoch from statement_timestamp() - min(g.oldest))::float8 as "oldestS"
      from grouped g
      cross join lateral (select case when g.tenant in (select tenant from tenants) then g.tenant else 'other' end as name) t
      cross join lateral (select case when g.queue in (select queue from queues) then g.queue else 'other' end as name) q
      group by q.name, t.name, g.state`.execute(trx);
    const { rows: waits } = await sql<Backlog['limits'][number]>`
      select split_part(key, '/', 1) as limit, count(*)::bigint as jobs,
        extract(epoch from statement_timestamp() - min(since))::float8 as "oldestS"
      from oncefleet.limit_waits group by 1 order by 2 desc, 1 limit ${limits.queues}`.execute(trx);
    const [total] = totals.rows;
    if (total === undefined) throw new Error('an aggregate gave no row');
    return { ...total, groups, limits: waits, uncounted: Math.max(0, total.due - limits.jobs) };
  });
}
