/** Queries on `poison_alerts`: poisoned jobs whose `onPoison` has not been seen to resolve. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

/**
 * How long a process that is about to call a hook has the alert to itself. Longer than it waits
 * for the hook, so that no second call overlaps one that is still awaited; an alert whose process
 * died is late by this time.
 */
const ALERT_HOLD_MS = 30_000;

/** Each call doubles the pause before the next, up to this. */
const LONGEST_PAUSE_MS = 3_600_000;

export interface PoisonAlert {
  jobId: string;
  /** The job's when it was poisoned. */
  fence: number;
  tenant: string;
  name: string;
  queue: string;
  crashes: number;
  /** How many times a process has set out to call the hook, this one included. */
  calls: number;
}

/** Notes the alert in the transaction that poisons its job; the caller is taken to call the hook now. */
export async function insertPoisonAlert(
  trx: Transaction<Database>,
  { jobId, fence, tenant, name, queue, crashes }: Omit<PoisonAlert, 'calls'>,
): Promise<void> {
  await sql`
    insert into oncefleet.poison_alerts (job_id, fence, tenant, name, queue, crashes, due_at)
    values (${jobId}, ${fence}, ${tenant}, ${name}, ${queue}, ${crashes},
      clock_timestamp() + ${ALERT_HOLD_MS}::float8 * interval '1 ms')`.execute(trx);
}

/** Takes alerts whose time has come, longest due first; each is the caller's until its next time. */
export async function takePoisonAlerts(
  db: Kysely<Database>,
  specs: readonly { name: string; queue: string }[],
  limit: number,
): Promise<PoisonAlert[]> {
  const rows = await sql<Omit<PoisonAlert, 'jobId'> & { job_id: string }>`
    with due as materialized (
      select job_id, fence from oncefleet.poison_alerts
      where due_at <= clock_timestamp() and (name, queue) in (
        select * from unnest(${specs.map((spec) => spec.name)}::text[], ${specs.map((spec) => spec.queue)}::text[])
      )
      order by due_at limit ${limit}
      for update skip locked
    )
    update oncefleet.poison_alerts a set calls = a.calls + 1, due_at = clock_timestamp()
      + least(${LONGEST_PAUSE_MS}::float8, ${ALERT_HOLD_MS}::float8 * power(2, least(a.calls, 20))) * interval '1 ms'
    from due where a.job_id = due.job_id and a.fence = due.fence
    returning a.job_id, a.fence, a.tenant, a.name, a.queue, a.crashes, a.calls`.execute(db);
  return rows.rows.map(({ job_id: jobId, ...row }) => ({ jobId, ...row }));
}

export async function deletePoisonAlert(
  db: Kysely<Database>,
  { jobId, fence }: Pick<PoisonAlert, 'jobId' | 'fence'>,
): Promise<void> {
  await db.deleteFrom('poison_alerts').where('job_id', '=', jobId).where('fence', '=', fence).execute();
}

/** How many alerts have waited for longer, by the name of their job. */
export async function findWaitingAlerts(
  db: Kysely<Database>,
  forMs: number,
): Promise<{ name: string; count: number }[]> {
  const rows = await sql<{ name: string; count: number }>`
    select name, count(*)::int as count from oncefleet.poison_alerts
    where created_at < clock_timestamp() - ${forMs}::float8 * interval '1 ms'
    group by name order by name`.execute(db);
  return rows.rows;
}
