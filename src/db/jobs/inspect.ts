/** What a person looks for among the jobs of a tenant or of all. However many there are, a statement reads few of them. */
import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { failedWith, INSPECTED_ROWS, inspectFailed, inspectUnfinished } from './inspect-failed.ts';
import type { JobStatus } from './states.ts';

/** Tenants whose jobs are looked up by key or name where none is named: each costs a look at an index. */
const MAX_TENANTS = 1_000;

export interface InspectFilter {
  /** Undefined: all. */
  tenant?: string | undefined;
  key?: string | undefined;
  name?: string | undefined;
  queue?: string | undefined;
  status?: JobStatus | undefined;
  /** Error code. */
  code?: string | undefined;
  /** All of them stand in the error's message, as words or as beginnings of words. */
  words?: readonly string[] | undefined;
  /** Only jobs older than this one. */
  before?: string | undefined;
}

export interface Inspection {
  /** Newest first. */
  ids: string[];
  /** Rows that were looked at, and of them those in each status, whatever status was asked for. */
  seen: number;
  counts: Partial<Record<JobStatus, number>>;
  /** Of the last row that was looked at; undefined: there are no more. */
  end: string | undefined;
}

function inspectStatement(filter: InspectFilter, limit: number) {
  const { tenant, key, name, queue, status, code, words = [], before } = filter;
  // As in searches: one index, that of the key, else of the name, else of the queue.
  const indexed = [
    ...(key === undefined ? [] : [sql`j.idempotency_key = ${key}`]),
    ...(name === undefined ? [] : [key === undefined ? sql`j.name = ${name}` : sql`j.name || '' = ${name}`]),
    ...(queue === undefined || key !== undefined || name !== undefined ? [] : [sql`j.queue = ${queue}`]),
    ...(before === undefined ? [] : [sql`j.id < ${before}::uuid`]),
  ];
  const fits = sql.join(
    [
      sql`true`,
      ...(queue === undefined ? [] : [sql`queue = ${queue}`]),
      ...(code === undefined && words.length === 0 ? [] : [failedWith(sql`read.id`, filter)]),
    ],
    sql` and `,
  );
  // Ids alone, which the index has: the rows of those that are too old are not read.
  const idsOf = (owner: ReturnType<typeof sql>) => sql`
    select j.id from oncefleet.jobs j where ${sql.join([owner, ...indexed], sql` and `)}
    order by j.id desc limit ${INSPECTED_ROWS}`;
  const everywhere = sql`
    select i.id from (
      with recursive tenants (tenant, n) as (
        (select tenant, 1 from oncefleet.jobs order by tenant limit 1)
        union all
        select (select j.tenant from oncefleet.jobs j where j.tenant > t.tenant order by j.tenant limit 1), t.n + 1
        from tenants t where t.tenant is not null and t.n < ${MAX_TENANTS}
      )
      select tenant from tenants where tenant is not null
    ) t cross join lateral (${idsOf(sql`j.tenant = t.tenant`)}) i
    order by i.id desc limit ${INSPECTED_ROWS}`;
  const ids =
    tenant !== undefined
      ? idsOf(sql`j.tenant = ${tenant}`)
      : key === undefined && name === undefined && queue === undefined
        ? idsOf(sql`true`)
        : everywhere;
  const rows = sql`
    select r.id, r.status, r.queue from (${ids}) i
    cross join lateral (select j.id, j.status, j.queue from oncefleet.jobs j where j.id = i.id offset 0) r`;
  return sql<{ ids: string[]; seen: number; counts: string; end: string | null }>`
    with read as materialized (${rows}),
    seen as materialized (select id, status, ${fits} as fits from read),
    found as (
      select id from seen where fits and ${status === undefined ? sql`true` : sql`status = ${status}`}
      order by id desc limit ${limit}
    )
    select coalesce((select array_agg(id order by id desc) from found), '{}') as ids,
      (select count(*) from seen) as seen,
      coalesce((
        select json_object_agg(c.status, c.n) from (select status, count(*) as n from seen where fits group by status) c
      ), '{}') as counts,
      (select id from seen order by id limit 1) as end`;
}

/**
 * Looks through the newest rows that the filter's index has, up to a bound. Jobs of a status that few have come from
 * narrow tables; their counts by status still are those of the newest rows.
 */
export async function inspectJobs(db: Kysely<Database>, filter: InspectFilter, limit: number): Promise<Inspection> {
  const { key, status, code, words = [] } = filter;
  if (key === undefined && (code !== undefined || words.length > 0)) return inspectFailed(db, filter, limit);
  const looked = await lookAtNewest(db, filter, limit);
  if (key !== undefined || status === undefined || status === 'completed') return looked;
  const find = status === 'failed' || status === 'cancelled' ? inspectFailed : inspectUnfinished;
  const { ids, end } = await find(db, filter, limit);
  return { ...looked, ids, end };
}

async function lookAtNewest(db: Kysely<Database>, filter: InspectFilter, limit: number): Promise<Inspection> {
  const { rows } = await inspectStatement(filter, limit).execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('an aggregate gave no row');
  const { ids, seen, end } = row;
  return {
    ids,
    seen,
    counts: JSON.parse(row.counts) as Inspection['counts'],
    // A full page ends before what else was seen.
    end: ids.length === limit ? ids.at(-1) : seen === INSPECTED_ROWS ? (end ?? undefined) : undefined,
  };
}

/** Whose job it is. */
export async function findTenantOf(db: Kysely<Database>, id: string): Promise<string | undefined> {
  const row = await db.selectFrom('jobs').select('tenant').where('id', '=', id).executeTakeFirst();
  return row?.tenant;
}

/** What a job's page shows beside its record. Times of the database's clock. */
export async function findJobDetails(db: Kysely<Database>, id: string) {
  const { rows } = await sql<{
    lease_expires_at: Date | null;
    lease_left_ms: number | null;
    deadline_at: Date | null;
    options: string;
    last_event_at: Date | null;
    next_seq: number | null;
    source: string | null;
  }>`
    select j.lease_expires_at, j.deadline_at, j.options, j.source::text as source, h.next_seq,
      extract(epoch from j.lease_expires_at - clock_timestamp())::float8 * 1000 as lease_left_ms,
      (select s.created_at from oncefleet.journal_segments s where s.stream_id = j.id
        order by s.first_seq desc limit 1) as last_event_at
    from oncefleet.jobs j left join oncefleet.stream_heads h on h.stream_id = j.id
    where j.id = ${id}`.execute(db);
  return rows[0];
}

/** Workers that hold leases, with some of their jobs. A worker that has no job has no row. */
export async function findBusyWorkers(db: Kysely<Database>, tenant: string | null, limit: number) {
  const { rows } = await sql<{ worker: string; jobs: number; held: number; ids: string[]; names: string[] }>`
    with running as materialized (
      select j.id, j.name, j.worker, j.lease_expires_at > clock_timestamp() as held
      from (select job_id from oncefleet.unfinished_jobs order by run_at, job_id limit ${INSPECTED_ROWS}) u
      cross join lateral (
        select id, name, worker, tenant, status, lease_expires_at from oncefleet.jobs where id = u.job_id offset 0
      ) j
      where j.status = 'running' and (${tenant}::text is null or j.tenant = ${tenant})
    )
    select coalesce(worker, '') as worker, count(*) as jobs, count(*) filter (where held) as held,
      (array_agg(id order by id))[1:20] as ids, (array_agg(name order by id))[1:20] as names
    from running group by worker order by count(*) desc, worker limit ${limit}`.execute(db);
  return rows;
}

/** Which process reconciled last. */
export async function findLastRound(db: Kysely<Database>) {
  return db.selectFrom('reconciler_rounds').select(['worker', 'finished_at']).executeTakeFirst();
}
