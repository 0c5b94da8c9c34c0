/** Searches among a tenant's jobs. However many rows there are, each statement reads few of them. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from '../schema.ts';
import type { JobStatus } from './states.ts';

/** Rows that one statement looks through for a status, which no index has: 20 to 50 ms. */
export const SCANNED_ROWS = 10_000;

export interface JobFilter {
  tenant: string;
  key?: string | undefined;
  name?: string | undefined;
  status?: JobStatus | undefined;
  /** Only jobs older than this one. */
  before?: string | undefined;
}

interface FoundIds {
  /** Newest first. */
  ids: string[];
  /** Of the last row that was looked at; undefined: there are no more. */
  end: string | undefined;
}

/**
 * Bounds the statements of a search in its transaction: in time, and to plans that read an index in its order. Where
 * Postgres guesses that few rows match, or has no statistics yet, it would read and sort all of a tenant's.
 */
export async function boundSearch(trx: Transaction<Database>, limitMs: number): Promise<void> {
  await sql`
    select set_config('statement_timeout', ${String(limitMs)}, true), set_config('enable_seqscan', 'off', true),
      set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)`.execute(trx);
}

/** The statement of `searchJobs`, to be explained as well. */
export function searchStatement(filter: JobFilter, limit: number) {
  const { tenant, key, name, status, before } = filter;
  const scanned = status === undefined ? limit : SCANNED_ROWS;
  const conditions = [
    sql`tenant = ${tenant}`,
    ...(key === undefined ? [] : [sql`idempotency_key = ${key}`]),
    // An expression where there is a key, of which there are fewer: the index of names is not for it.
    ...(name === undefined ? [] : [key === undefined ? sql`name = ${name}` : sql`name || '' = ${name}`]),
    ...(before === undefined ? [] : [sql`id < ${before}::uuid`]),
  ];
  const matches = status === undefined ? sql`true` : sql`status = ${status}`;
  return sql<{ id: string; matches: boolean; full: boolean }>`
    with seen as materialized (
      select id, ${matches} as matches from oncefleet.jobs
      where ${sql.join(conditions, sql` and `)} order by id desc limit ${scanned}
    ), found as (
      select id from seen where matches order by id desc limit ${limit}
    )
    select id, true as matches, false as full from found
    union all
    (select id, false, (select count(*) from seen) = ${scanned} from seen order by id limit 1)`;
}

/** Looks through the newest rows that the filter's index has, up to a bound. */
export async function searchJobs(db: Kysely<Database>, filter: JobFilter, limit: number): Promise<FoundIds> {
  const { rows } = await searchStatement(filter, limit).execute(db);
  const ids = rows.filter(({ matches }) => matches).map(({ id }) => id);
  const last = rows.find(({ matches }) => !matches);
  // A full page ends before what else was seen.
  return { ids, end: ids.length === limit ? ids.at(-1) : last?.full === true ? last.id : undefined };
}
