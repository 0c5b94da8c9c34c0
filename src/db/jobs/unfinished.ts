import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import type { RowOptions } from './insert.ts';
import { readRowOptions } from './row-options.ts';
import type { JobSource } from './source.ts';
import { crashesOf, leaseHeld, msUntil, mustEnd, unfinished } from './states.ts';

export interface DispatchRow {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  key: string | null;
  options: RowOptions;
  /** As in `NewJob`. */
  source?: JobSource;
  keyScope?: string;
  /** Until it may run; 0 or less: now. */
  delayMs: number;
  /** Carried by BullMQ for jobs that may run while Postgres is unreachable. */
  input?: unknown;
}

/** What a `DispatchRow` is made of, of `jobs`. */
export const DISPATCH_COLUMNS = [
  'id',
  'tenant',
  'name',
  'queue',
  'idempotency_key',
  'options',
  'source',
  'key_scope',
] as const;

export interface DispatchColumns {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  idempotency_key: string | null;
  options: string;
  source: string | null;
  key_scope: string;
}

export function toDispatchRow(row: DispatchColumns & { delay_ms?: number }): DispatchRow {
  const { id, tenant, name, queue, idempotency_key: key, options, source, key_scope: keyScope } = row;
  return {
    id,
    tenant,
    name,
    queue,
    key,
    keyScope,
    options: readRowOptions(options),
    ...(source === null ? {} : { source: JSON.parse(source) as JobSource }),
    delayMs: row.delay_ms ?? 0,
  };
}

/** A place in the order of unfinished jobs; the time is text, for Postgres's microseconds. */
export interface UnfinishedCursor {
  runAt: string;
  id: string;
}

interface UnfinishedPage {
  /** Where the page before ended. */
  after?: UnfinishedCursor | undefined;
  limit: number;
  /** Only those that have been due for this time. */
  graceMs?: number;
  /** Only those that became due in this time. */
  withinMs?: number;
}

/**
 * Unfinished jobs in the order they become due.
 *
 * By `statement_timestamp()`: `clock_timestamp()` is volatile, so the index would be read from
 * its start, and each entry compared.
 *
 * @returns `end`: where the page ends; undefined when it is the last
 */
export async function findUnfinishedIds(
  db: Kysely<Database>,
  page: UnfinishedPage,
): Promise<{ ids: string[]; end: UnfinishedCursor | undefined }> {
  const { after, limit, graceMs, withinMs } = page;
  const rows = await sql<{ id: string; at: string }>`
    select job_id as id, run_at::text as at from oncefleet.unfinished_jobs
    where ${graceMs === undefined ? sql`true` : sql`run_at < statement_timestamp() - ${graceMs}::float8 * interval '1 ms'`}
      and ${after === undefined ? sql`true` : sql`(run_at, job_id) > (${after.runAt}::timestamptz, ${after.id}::uuid)`}
      and ${withinMs === undefined ? sql`true` : sql`run_at > statement_timestamp() - ${withinMs}::float8 * interval '1 ms'`}
    order by run_at, job_id
    limit ${limit}`.execute(db);
  const last = rows.rows.length < limit ? undefined : rows.rows.at(-1);
  return { ids: rows.rows.map(({ id }) => id), end: last === undefined ? undefined : { runAt: last.at, id: last.id } };
}

/** Pending jobs in the order they become due; those not due yet have a delay left. */
export async function findPendingJobs(
  db: Kysely<Database>,
  page: UnfinishedPage,
): Promise<{ jobs: DispatchRow[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, page);
  if (ids.length === 0) return { jobs: [], end };
  const rows = await sql<DispatchColumns & { delay_ms: number }>`
    select ${sql.raw(DISPATCH_COLUMNS.join(', '))},
      ${sql.raw(msUntil('run_at'))} as delay_ms
    from oncefleet.jobs
    where id = any(${ids}::uuid[]) and status = 'pending'
    order by run_at, id`.execute(db);
  return { jobs: rows.rows.map(toDispatchRow), end };
}

/** Of several jobs, those that still wait to run: pending, or running with an expired lease. */
export async function findWaiting(db: Kysely<Database>, ids: readonly string[]): Promise<Set<string>> {
  const rows = await sql<{ id: string }>`
    select id from oncefleet.jobs j
    where id = any(${ids}::uuid[]) and ${sql.raw(unfinished('j'))} and not ${sql.raw(leaseHeld('j'))}`.execute(db);
  return new Set(rows.rows.map((row) => row.id));
}

/** Of several jobs, those that are pending and may run now. */
export async function findDue(db: Kysely<Database>, ids: readonly string[]): Promise<string[]> {
  if (ids.length === 0) return [];
  const { rows } = await sql<{ id: string }>`
    select id from oncefleet.jobs
    where id = any(${ids}::uuid[]) and status = 'pending' and run_at <= clock_timestamp()`.execute(db);
  return rows.map(({ id }) => id);
}

export interface AbandonedJob extends DispatchRow {
  crashCount: number;
  /** Cancelled, or past its deadline. */
  mustEnd: boolean;
}

interface AbandonedColumns extends DispatchColumns {
  crash_count: number;
  must_end: boolean;
}

const ABANDONED_COLUMNS = sql.raw(`${DISPATCH_COLUMNS.map((column) => `j.${column}`).join(', ')},
  ${crashesOf('j')} as crash_count, ${mustEnd('j')} as must_end`);

function toAbandonedJob(row: AbandonedColumns): AbandonedJob {
  return { ...toDispatchRow(row), crashCount: row.crash_count, mustEnd: row.must_end };
}

/**
 * Of a page of due jobs: those that run and whose lease has expired, those that wait although they
 * must end, and the ids of those that have finished or are gone and should not be on the list.
 *
 * A page, not an index: an index on leases would make every claim and outcome write to each index
 * of the table.
 */
export async function findAbandonedJobs(
  db: Kysely<Database>,
  page: { after?: UnfinishedCursor | undefined; limit: number },
): Promise<{ jobs: AbandonedJob[]; finished: string[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, { ...page, graceMs: 0 });
  if (ids.length === 0) return { jobs: [], finished: [], end };
  // `offset 0` keeps the lookup as it is written, row by row: a join would read all jobs for a page.
  const { rows } = await sql<AbandonedColumns & { listed: string; finished: boolean }>`
    select l.id as listed, j.id is null or j.finished_at is not null as finished, ${ABANDONED_COLUMNS}
    from unnest(${ids}::uuid[]) as l (id)
    left join lateral (select * from oncefleet.jobs where id = l.id offset 0) j on true
    where j.id is null or j.finished_at is not null
      or case when j.status = 'running' then not ${sql.raw(leaseHeld('j'))} else ${sql.raw(mustEnd('j'))} end`.execute(
    db,
  );
  const finished = rows.filter((row) => row.finished).map((row) => row.listed);
  return { jobs: rows.filter((row) => !row.finished).map(toAbandonedJob), finished, end };
}

/** Waiting jobs that were cancelled or are past their deadline, due or not. */
export async function findOverdueJobs(db: Kysely<Database>, limit: number): Promise<AbandonedJob[]> {
  const { rows } = await sql<AbandonedColumns>`
    select ${ABANDONED_COLUMNS} from oncefleet.unfinished_jobs u join oncefleet.jobs j on j.id = u.job_id
    where u.end_by <= statement_timestamp() and j.status = 'pending'
    order by u.end_by limit ${limit}`.execute(db);
  return rows.map(toAbandonedJob).filter((job) => job.mustEnd);
}

/** Takes jobs that somebody ended by hand, and ids without a row, off the list of the unfinished. */
export async function dropFinished(db: Kysely<Database>, ids: readonly string[]): Promise<void> {
  // The lock excludes a concurrent redrive.
  await sql`
    with finished as (
      select id from oncefleet.jobs where id = any(${ids}::uuid[]) and finished_at is not null for key share skip locked
    )
    delete from oncefleet.unfinished_jobs
    where job_id = any(${ids}::uuid[])
      and (job_id in (select id from finished) or not exists (select from oncefleet.jobs where id = job_id))`.execute(
    db,
  );
}
