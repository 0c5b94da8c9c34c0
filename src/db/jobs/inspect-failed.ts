/**
 * Searches among jobs that failed or were cancelled, and among those that have not ended: each has a narrow table of its
 * own, so that a status, a code or words that few of a million jobs have are found at once.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Database } from '../schema.ts';
import type { JobStatus } from './states.ts';

/** Rows that one look takes in. */
export const INSPECTED_ROWS = 5_000;

interface NarrowFilter {
  tenant?: string | undefined;
  name?: string | undefined;
  queue?: string | undefined;
  status?: JobStatus | undefined;
  code?: string | undefined;
  words?: readonly string[] | undefined;
  before?: string | undefined;
}

interface NarrowFound {
  /** Newest first. */
  ids: string[];
  seen: number;
  counts: Partial<Record<JobStatus, number>>;
  /** Of the last row that was looked at; undefined: there are no more. */
  end: string | undefined;
}

interface FoundRow {
  ids: string[];
  seen: number;
  counts: string;
  end: string | null;
}

/** Jobs that failed or were cancelled. Codes and words are those of failed ones. */
export async function inspectFailed(db: Kysely<Database>, filter: NarrowFilter, limit: number): Promise<NarrowFound> {
  const { tenant, name, queue, status, code, words = [], before } = filter;
  const query = wordQuery(words);
  // The errors of cancelled jobs are all alike.
  const only = code !== undefined || words.length > 0 || status === undefined ? 'failed' : status;
  const conditions = [
    ...(name === undefined ? [] : [sql`name = ${name}`]),
    ...(queue === undefined ? [] : [sql`queue = ${queue}`]),
    sql`status = ${only}`,
    ...(query === undefined ? [] : [sql`words @@ ${query}`]),
  ];
  const indexed = [
    code === undefined ? sql`status = ${only}` : sql`code = ${codeText(code)}`,
    ...(tenant === undefined ? [] : [sql`tenant = ${tenant}`]),
    ...(before === undefined ? [] : [sql`job_id < ${before}::uuid`]),
  ];
  const fits = sql.join(conditions, sql` and `);
  const wanted = sql.join(indexed, sql` and `);
  const rare = query === undefined ? undefined : await findRare(db, query);
  // All that have rare words are at hand. Common words are soon met on the way from the newest to the oldest.
  const read =
    rare === undefined
      ? sql`select job_id as id, status, ${fits} as fits from oncefleet.failed_jobs
          where ${wanted} order by job_id desc limit ${INSPECTED_ROWS}`
      : sql`select job_id as id, status, ${fits} as fits from oncefleet.failed_jobs
          where job_id = any(${rare}::uuid[]) and ${wanted}`;
  return toFound(await foundIn(db, read, status, limit), limit);
}

/** Jobs that have not ended. */
export async function inspectUnfinished(
  db: Kysely<Database>,
  { tenant, name, queue, status, before }: NarrowFilter,
  limit: number,
): Promise<NarrowFound> {
  const fits = [
    sql`true`,
    ...(tenant === undefined ? [] : [sql`j.tenant = ${tenant}`]),
    ...(name === undefined ? [] : [sql`j.name = ${name}`]),
    ...(queue === undefined ? [] : [sql`j.queue = ${queue}`]),
  ];
  const older = before === undefined ? sql`true` : sql`job_id < ${before}::uuid`;
  const read = sql`
    select u.job_id as id, j.status, ${sql.join(fits, sql` and `)} as fits
    from (select job_id from oncefleet.unfinished_jobs where ${older} order by job_id desc limit ${INSPECTED_ROWS}) u
    cross join lateral (select tenant, name, queue, status from oncefleet.jobs where id = u.job_id offset 0) j`;
  return toFound(await foundIn(db, read, status, limit), limit);
}

/** A condition on the id of a job: it failed with this code and these words. */
export function failedWith(id: RawBuilder<unknown>, { code, words = [] }: NarrowFilter): RawBuilder<unknown> {
  const query = wordQuery(words);
  const conditions = [
    sql`f.job_id = ${id}`,
    sql`f.status = 'failed'`,
    ...(code === undefined ? [] : [sql`f.code = ${codeText(code)}`]),
    ...(query === undefined ? [] : [sql`f.words @@ ${query}`]),
  ];
  return sql`exists (select from oncefleet.failed_jobs f where ${sql.join(conditions, sql` and `)})`;
}

/** Of the rows that `read` gives: those that fit, by status, and the newest of the one asked for. */
async function foundIn(
  db: Kysely<Database>,
  read: RawBuilder<unknown>,
  status: JobStatus | undefined,
  limit: number,
): Promise<FoundRow> {
  const { rows } = await sql<FoundRow>`
    with seen as materialized (${read}),
    found as (
      select id from seen where fits and ${status === undefined ? sql`true` : sql`status = ${status}`}
      order by id desc limit ${limit}
    )
    select coalesce((select array_agg(id order by id desc) from found), '{}') as ids,
      (select count(*) from seen) as seen,
      coalesce((
        select json_object_agg(c.status, c.n) from (select status, count(*) as n from seen where fits group by status) c
      ), '{}') as counts,
      (select id from seen order by id limit 1) as end`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('an aggregate gave no row');
  return row;
}

function toFound({ ids, seen, counts, end }: FoundRow, limit: number): NarrowFound {
  return {
    ids,
    seen,
    counts: JSON.parse(counts) as NarrowFound['counts'],
    // A full page ends before what else was seen.
    end: ids.length === limit ? ids.at(-1) : seen === INSPECTED_ROWS ? (end ?? undefined) : undefined,
  };
}

/** Jobs whose errors have all words, from the index of words; undefined: too many to take them all. */
async function findRare(db: Kysely<Database>, query: RawBuilder<unknown>): Promise<string[] | undefined> {
  // That index has no order: a search allows only scans in an order (`boundSearch`).
  await usePlan(db, 'bitmap');
  const { rows } = await sql<{ job_id: string }>`
    select job_id from oncefleet.failed_jobs where words @@ ${query} limit ${INSPECTED_ROWS + 1}`.execute(db);
  await usePlan(db, 'index');
  return rows.length > INSPECTED_ROWS ? undefined : rows.map(({ job_id }) => job_id);
}

async function usePlan(db: Kysely<Database>, plan: 'bitmap' | 'index'): Promise<void> {
  await sql`
    select set_config('enable_bitmapscan', ${plan === 'bitmap' ? 'on' : 'off'}, true),
      set_config('enable_indexscan', ${plan === 'index' ? 'on' : 'off'}, true)`.execute(db);
}

/** As the table has it. */
function codeText(code: string): string {
  return JSON.stringify(code).slice(1, -1).slice(0, 200);
}

/** All words, or beginnings of words. @returns undefined: no words were asked for */
function wordQuery(words: readonly string[]): RawBuilder<unknown> | undefined {
  if (words.length === 0) return undefined;
  const each = words.map((word) => {
    // Without signs, as in the table. What then is several words must stand so in the message.
    const quoted = `'${word.replaceAll('\0', ' ').replace(/[!-/:-@[-`{-~]/g, ' ')}':*`;
    return sql`to_tsquery('pg_catalog.simple', ${quoted})`;
  });
  return sql`(${sql.join(each, sql` && `)})`;
}
