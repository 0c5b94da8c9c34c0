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

export interface FailedFilter {
  tenant: string;
  name?: string | undefined;
  /** Error code of the failure. */
  code?: string | undefined;
  /** Failed no longer ago than this. */
  withinMs?: number | undefined;
}

export interface FailedJob {
  id: string;
  /** Seconds since 1970; rows that somebody wrote by hand may have an infinite one. */
  finishedAt: number;
}

/** The statement of `findFailedJobs`, to be explained as well. */
export function failedStatement(filter: FailedFilter, after: string | undefined) {
  const { tenant, name, code, withinMs } = filter;
  const conditions = [
    sql`status = 'failed'`,
    ...(name === undefined ? [] : [sql`name = ${name}`]),
    // As text: a message with \u0000 in it cannot be taken apart by json operators.
    ...(code === undefined ? [] : [sql`starts_with(error::text, ${`{"code":${JSON.stringify(code)}`})`]),
    ...(withinMs === undefined ? [] : [sql`finished_at >= clock_timestamp() - ${withinMs}::float8 * interval '1 ms'`]),
  ];
  const isAfter = after === undefined ? sql`true` : sql`id > ${after}::uuid`;
  return sql<{ id: string; matches: boolean; finished_at: number | null }>`
    with seen as materialized (
      select id, coalesce(${sql.join(conditions, sql` and `)}, false) as matches,
        extract(epoch from finished_at)::float8 as finished_at
      from oncefleet.jobs where tenant = ${tenant} and ${isAfter} order by id limit ${SCANNED_ROWS}
    )
    select id, true as matches, finished_at from seen where matches
    union all
    (select id, false, null from seen order by id offset ${SCANNED_ROWS - 1} limit 1)`;
}

/**
 * Failed jobs among a tenant's rows after one of them, in the order of their ids. Status and time of the end are in no
 * index, so each call looks through a bounded number of rows.
 *
 * @returns `end`: after which row to continue; undefined: there are no more
 */
export async function findFailedJobs(
  db: Kysely<Database>,
  filter: FailedFilter,
  after: string | undefined,
): Promise<{ jobs: FailedJob[]; end: string | undefined }> {
  const { rows } = await failedStatement(filter, after).execute(db);
  return {
    jobs: rows
      .filter(({ matches }) => matches)
      .map((row) => ({ id: row.id, finishedAt: Number(row.finished_at ?? 0) })),
    end: rows.find(({ matches }) => !matches)?.id,
  };
}
