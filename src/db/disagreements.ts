/** Queries of the doctor: rows as they stand beside BullMQ's jobs, and the state of the server. */
import { type Kysely, sql } from 'kysely';
import type { DispatchRow, RowOptions } from './jobs.ts';
import type { Database } from './schema.ts';

export interface RowState extends DispatchRow {
  status: 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
  /** Running, and its lease has not expired. */
  held: boolean;
  /** Unfinished, and cancelled or past its deadline. */
  mustEnd: boolean;
  /** With the crash that an expired lease is. */
  crashCount: number;
}

interface RowColumns {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  idempotency_key: string | null;
  options: string;
  status: RowState['status'];
  delay_ms: number;
  held: boolean;
  must_end: boolean;
  crash_count: number;
}

const COLUMNS = sql.raw(`
  id, tenant, name, queue, idempotency_key, options, status,
  extract(epoch from run_at - clock_timestamp())::float8 * 1000 as delay_ms,
  coalesce(status = 'running' and lease_expires_at > clock_timestamp(), false) as held,
  status in ('pending', 'running')
    and (cancel_requested_at is not null or coalesce(deadline_at <= clock_timestamp(), false)) as must_end,
  crash_count + coalesce(status = 'running' and lease_expires_at <= clock_timestamp(), false)::int as crash_count`);

function toRowState(row: RowColumns): RowState {
  return {
    id: row.id,
    tenant: row.tenant,
    name: row.name,
    queue: row.queue,
    key: row.idempotency_key,
    options: JSON.parse(row.options) as RowOptions,
    delayMs: row.delay_ms,
    status: row.status,
    held: row.held,
    mustEnd: row.must_end,
    crashCount: row.crash_count,
  };
}

export async function findRowStates(db: Kysely<Database>, ids: readonly string[]): Promise<Map<string, RowState>> {
  const rows = await sql<RowColumns>`select ${COLUMNS} from jobs where id = any(${ids}::uuid[])`.execute(db);
  return new Map(rows.rows.map((row) => [row.id, toRowState(row)]));
}

/** Unfinished jobs, a page at a time: first those that wait, then those that run. */
export async function findUnfinished(
  db: Kysely<Database>,
  page: { status: 'pending' | 'running'; after: { at: string; id: string } | undefined; limit: number },
): Promise<{ rows: RowState[]; end: { at: string; id: string } | undefined }> {
  const { status, after, limit } = page;
  // Each by its own partial index.
  const at = sql.raw(status === 'pending' ? 'run_at' : 'lease_expires_at');
  const rows = await sql<RowColumns & { at: string }>`
    select ${COLUMNS}, ${at}::text as at from jobs
    where status = ${sql.lit(status)}
      and ${after === undefined ? sql`true` : sql`(${at}, id) > (${after.at}::timestamptz, ${after.id}::uuid)`}
    order by jobs.${at}, id limit ${limit}`.execute(db);
  const last = rows.rows.length < limit ? undefined : rows.rows.at(-1);
  return { rows: rows.rows.map(toRowState), end: last === undefined ? undefined : { at: last.at, id: last.id } };
}

export interface ServerState {
  /** As `server_version_num`: 140005 is 14.5. */
  version: number;
  /** Jobs that wait or run. */
  unfinished: number;
  /** Rows as Postgres's statistics have them. */
  tables: { name: string; live: number; dead: number }[];
  /** Age of the oldest open transaction of others, ms. */
  oldestTransactionMs: number | null;
}

export async function findServerState(db: Kysely<Database>): Promise<ServerState> {
  const server = await sql<{ version: number; oldest: number | null }>`
    select current_setting('server_version_num')::int as version,
      (select extract(epoch from clock_timestamp() - min(xact_start))::float8 * 1000 from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend') as oldest`.execute(
    db,
  );
  const unfinished = await sql<{ count: number }>`
    select count(*) as count from (
      select from jobs where status = 'pending' union all select from jobs where status = 'running'
    ) j`.execute(db);
  const tables = await sql<{ name: string; live: number; dead: number }>`
    select relname as name, n_live_tup as live, n_dead_tup as dead from pg_stat_user_tables
    where relid in (to_regclass('jobs'), to_regclass('stream_heads'), to_regclass('ended_attempts'))`.execute(db);
  const [row] = server.rows;
  return {
    version: row?.version ?? 0,
    unfinished: unfinished.rows[0]?.count ?? 0,
    tables: tables.rows,
    oldestTransactionMs: row?.oldest ?? null,
  };
}

/** Postgres's clock, ms since 1970. */
export async function findClock(db: Kysely<Database>): Promise<number> {
  const rows = await sql<{ now: number }>`select extract(epoch from clock_timestamp())::float8 * 1000 as now`.execute(
    db,
  );
  return rows.rows[0]?.now ?? 0;
}

/** Queues that unfinished jobs are in. */
export async function findQueues(db: Kysely<Database>): Promise<string[]> {
  const rows = await sql<{ queue: string }>`
    select queue from jobs where status = 'pending' union select queue from jobs where status = 'running'`.execute(db);
  return rows.rows.map((row) => row.queue);
}
