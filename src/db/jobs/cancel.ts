import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { type JobStatus, leaseHeld, unfinished } from './states.ts';

/** Asks for a cancel. @returns the status before it, `live` while a worker runs it; undefined: no such job */
export async function requestCancel(
  db: Kysely<Database>,
  tenant: string,
  id: string,
): Promise<{ status: JobStatus; live: boolean } | undefined> {
  const rows = await sql<{ status: JobStatus; live: boolean }>`
    with asked as (
      update oncefleet.jobs j set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
      where id = ${id} and tenant = ${tenant} and ${sql.raw(unfinished('j'))}
      returning id, status, ${sql.raw(leaseHeld('j'))} as live
    ), overdue as (
      update oncefleet.unfinished_jobs u set end_by = clock_timestamp() from asked a where u.job_id = a.id
    )
    select status, live from asked
    union all
    select status, false from oncefleet.jobs
    where id = ${id} and tenant = ${tenant} and not exists (select from asked)`.execute(db);
  return rows.rows[0];
}
