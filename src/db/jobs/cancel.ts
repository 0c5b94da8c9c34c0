import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { type JobStatus, leaseHeld, unfinished } from './states.ts';
import { findUnfinishedIds, type UnfinishedCursor } from './unfinished.ts';

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

interface UnfinishedFilter {
  tenant: string;
  name?: string | undefined;
  queue?: string | undefined;
  status?: 'pending' | 'running' | undefined;
  keyPrefix?: string | undefined;
  /** Enqueued before this time, as Postgres writes it. */
  before: string;
}

/** A time of Postgres's, as text. */
export async function timeBefore(db: Kysely<Database>, ms: number): Promise<string> {
  const { rows } = await sql<{ at: string }>`
    select (clock_timestamp() - ${ms}::float8 * interval '1 ms')::text as at`.execute(db);
  return (rows[0] as { at: string }).at;
}

/** Of a page of unfinished jobs, in the order they become due, those that match. @returns `end`: undefined at the last page */
export async function findUnfinishedMatches(
  db: Kysely<Database>,
  filter: UnfinishedFilter,
  page: { after: UnfinishedCursor | undefined; limit: number },
): Promise<{ jobs: { id: string; status: JobStatus }[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, page);
  if (ids.length === 0) return { jobs: [], end };
  const { tenant, name, queue, status, keyPrefix, before } = filter;
  const conditions = [
    sql`tenant = ${tenant}`,
    sql`created_at <= ${before}::timestamptz`,
    status === undefined ? sql.raw(unfinished('j')) : sql`status = ${status}`,
    ...(name === undefined ? [] : [sql`name = ${name}`]),
    ...(queue === undefined ? [] : [sql`queue = ${queue}`]),
    ...(keyPrefix === undefined ? [] : [sql`starts_with(idempotency_key, ${keyPrefix})`]),
  ];
  const { rows } = await sql<{ id: string; status: JobStatus }>`
    select id, status from oncefleet.jobs j where id = any(${ids}::uuid[]) and ${sql.join(conditions, sql` and `)}`.execute(
    db,
  );
  return { jobs: rows, end };
}
