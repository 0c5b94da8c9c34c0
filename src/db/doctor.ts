/** Queries of the doctor: rows as they stand beside BullMQ's jobs, and the state of the server. */

import { type Kysely, sql } from 'kysely';
import type { JobStatus } from './jobs/states.ts';
import { crashesOf, leaseHeld, msUntil, mustEnd, unfinished } from './jobs/states.ts';
import {
  DISPATCH_COLUMNS,
  type DispatchColumns,
  type DispatchRow,
  findUnfinishedIds,
  toDispatchRow,
  type UnfinishedCursor,
} from './jobs/unfinished.ts';
import type { Database } from './schema.ts';

export interface RowState extends DispatchRow {
  status: JobStatus;
  /** Running, and its lease has not expired. */
  held: boolean;
  /** Unfinished, and cancelled or past its deadline. */
  mustEnd: boolean;
  /** With the crash that an expired lease is. */
  crashCount: number;
}

interface RowColumns extends DispatchColumns {
  status: RowState['status'];
  delay_ms: number;
  held: boolean;
  must_end: boolean;
  crash_count: number;
}

const COLUMNS = sql.raw(`
  ${DISPATCH_COLUMNS.join(', ')}, status,
  ${msUntil('run_at')} as delay_ms,
  ${leaseHeld('j')} as held,
  ${unfinished('j')} and ${mustEnd('j')} as must_end,
  case when ${leaseHeld('j')} then crash_count else ${crashesOf('j')} end as crash_count`);

function toRowState(row: RowColumns): RowState {
  return {
    ...toDispatchRow(row),
    status: row.status,
    held: row.held,
    mustEnd: row.must_end,
    crashCount: row.crash_count,
  };
}

export async function findRowStates(db: Kysely<Database>, ids: readonly string[]): Promise<Map<string, RowState>> {
  const rows = await sql<RowColumns>`select ${COLUMNS} from oncefleet.jobs j where id = any(${ids}::uuid[])`.execute(
    db,
  );
  return new Map(rows.rows.map((row) => [row.id, toRowState(row)]));
}

/** Unfinished jobs, a page at a time, in the order they are due. */
export async function findUnfinished(
  db: Kysely<Database>,
  page: { after: UnfinishedCursor | undefined; limit: number },
): Promise<{ rows: RowState[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, page);
  return { rows: [...(await findRowStates(db, ids)).values()], end };
}

/** Unfinished jobs that are not on the list of them. Reads every job. @param ids only of these */
export async function findUnlisted(db: Kysely<Database>, ids?: readonly string[]): Promise<RowState[]> {
  const rows = await sql<RowColumns>`
    select ${COLUMNS} from oncefleet.jobs j
    where finished_at is null and not exists (select from oncefleet.unfinished_jobs where job_id = id)
      and ${ids === undefined ? sql`true` : sql`id = any(${ids}::uuid[])`}`.execute(db);
  return rows.rows.map(toRowState);
}

/** Puts a job on the list of the unfinished, if it is that. */
export async function listUnfinished(db: Kysely<Database>, id: string): Promise<void> {
  await sql`
    insert into oncefleet.unfinished_jobs (job_id, run_at, end_by)
    select id, run_at, case when cancel_requested_at is null then deadline_at else cancel_requested_at end
    from oncefleet.jobs where id = ${id} and finished_at is null
    for key share
    on conflict do nothing`.execute(db);
}

export interface ServerState {
  /** As `server_version_num`: 140005 is 14.5. */
  version: number;
  /** `LC_CTYPE` of the database: what text search takes for a letter. */
  ctype: string;
  /** Jobs that wait or run. */
  unfinished: number;
  /** Rows as Postgres's statistics have them. */
  tables: { name: string; live: number; dead: number }[];
  /** Age of the oldest open transaction of others. */
  oldestTransactionMs: number | null;
}

export async function findServerState(db: Kysely<Database>): Promise<ServerState> {
  const server = await sql<{ version: number; ctype: string; oldest: number | null }>`
    select current_setting('server_version_num')::int as version, d.datctype as ctype,
      (select extract(epoch from clock_timestamp() - min(xact_start))::float8 * 1000 from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend') as oldest
    from pg_database d where d.datname = current_database()`.execute(db);
  const unfinished = await sql<{ count: number }>`
    select count(*) as count from oncefleet.unfinished_jobs`.execute(db);
  const tables = await sql<{ name: string; live: number; dead: number }>`
    select relname as name, n_live_tup as live, n_dead_tup as dead from pg_stat_user_tables
    where relid in (to_regclass('oncefleet.jobs'), to_regclass('oncefleet.stream_heads'), to_regclass('oncefleet.ended_attempts'))`.execute(
    db,
  );
  const [row] = server.rows;
  return {
    version: row?.version ?? 0,
    ctype: row?.ctype ?? '',
    unfinished: unfinished.rows[0]?.count ?? 0,
    tables: tables.rows,
    oldestTransactionMs: row?.oldest ?? null,
  };
}

/** Postgres's clock, in milliseconds since 1970. */
export async function findClock(db: Kysely<Database>): Promise<number> {
  const rows = await sql<{ now: number }>`select extract(epoch from clock_timestamp())::float8 * 1000 as now`.execute(
    db,
  );
  return rows.rows[0]?.now ?? 0;
}

/** Names of the fleet's jobs that have waited for longer than `waitedMs`, and are not among `known`. */
export async function findUnknownNames(
  db: Kysely<Database>,
  known: readonly string[],
  waitedMs: number,
): Promise<{ name: string; count: number }[]> {
  const rows = await sql<{ name: string; count: number }>`
    select j.name, count(*)::int as count from oncefleet.unfinished_jobs u join oncefleet.jobs j on j.id = u.job_id
    where j.key_scope = '' and u.run_at < statement_timestamp() - ${waitedMs}::float8 * interval '1 ms'
      and j.status = 'pending' and j.name <> all(${known}::text[])
    group by j.name order by j.name limit 100`.execute(db);
  return rows.rows;
}

/** Queues of the fleet that unfinished jobs are in. */
export async function findQueues(db: Kysely<Database>): Promise<string[]> {
  const rows = await sql<{ queue: string }>`
    select distinct j.queue from oncefleet.unfinished_jobs u join oncefleet.jobs j on j.id = u.job_id where j.key_scope = ''`.execute(
    db,
  );
  return rows.rows.map((row) => row.queue);
}
