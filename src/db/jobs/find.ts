import { type Kysely, type Selectable, sql } from 'kysely';
import type { TraceCarrier } from '../../util/tracing.ts';
import type { Database, JobsTable } from '../schema.ts';
import { readRowOptions } from './row-options.ts';
import type { JobStatus } from './states.ts';

/** One job of a tenant, with its columns as the table has them. */
export async function findJob(db: Kysely<Database>, tenant: string, id: string) {
  return db
    .selectFrom('jobs as j')
    .leftJoin('stream_heads as h', 'h.stream_id', 'j.id')
    .selectAll('j')
    .select('h.progress')
    .where('j.id', '=', id)
    .where('j.tenant', '=', tenant)
    .executeTakeFirst();
}

/** What a summary of a job shows: no column that can be large. */
const SUMMARY_COLUMNS = [
  'id',
  'tenant',
  'name',
  'queue',
  'idempotency_key',
  'status',
  'fence',
  'error',
  'crash_count',
  'error_count',
  'deferral_count',
  'interruption_count',
  'limited_count',
  'run_at',
  'created_at',
  'started_at',
  'finished_at',
  'expires_at',
  'cancel_requested_at',
  'lease_owner',
] as const;

export type JobSummaryRow = Pick<Selectable<JobsTable>, (typeof SUMMARY_COLUMNS)[number]>;

/** One job of a tenant as people see it. An input or a result of more than `maxBytes` is left out. */
export async function findJobRecord(db: Kysely<Database>, tenant: string, id: string, maxBytes: number) {
  const fits = (column: 'input' | 'result') =>
    sql<string | null>`case when octet_length(j.${sql.ref(column)}::text) <= ${maxBytes} then j.${sql.ref(column)} end`;
  return db
    .selectFrom('jobs as j')
    .leftJoin('stream_heads as h', 'h.stream_id', 'j.id')
    .select(SUMMARY_COLUMNS.map((column) => `j.${column}` as const))
    .select([
      'h.progress',
      fits('input').as('input'),
      fits('result').as('result'),
      sql<boolean>`j.result is not null`.as('has_result'),
    ])
    .where('j.tenant', '=', tenant)
    .where('j.id', '=', id)
    .executeTakeFirst();
}

/** The last attempts of a job, in order. */
export async function findAttempts(db: Kysely<Database>, id: string, limit: number) {
  const query = db.selectFrom('job_attempts').selectAll().where('job_id', '=', id);
  const rows = await query.orderBy('fence', 'desc').limit(limit).execute();
  return rows.reverse();
}

/** Of a tenant's jobs, or of all, those with these ids, newest first. */
export async function findJobs(db: Kysely<Database>, tenant: string | undefined, ids: readonly string[]) {
  const all = db.selectFrom('jobs').select(SUMMARY_COLUMNS);
  const query = tenant === undefined ? all : all.where('tenant', '=', tenant);
  return query.where(sql<boolean>`id = any(${ids}::uuid[])`).orderBy('id', 'desc').execute();
}

/** Of several jobs, those that somebody asked to cancel and that have not ended. */
export async function findCancelRequested(db: Kysely<Database>, ids: readonly string[]): Promise<string[]> {
  const rows = await db
    .selectFrom('jobs')
    .select('id')
    .where(sql<boolean>`id = any(${ids}::uuid[])`)
    .where('status', '=', 'running')
    .where('cancel_requested_at', 'is not', null)
    .execute();
  return rows.map(({ id }) => id);
}

export interface Outcome {
  id: string;
  status: JobStatus;
  result: string | null;
  error: string | null;
}

/** Of several jobs, those that have ended, with what they ended in. */
export async function findOutcomes(db: Kysely<Database>, ids: readonly string[]): Promise<Outcome[]> {
  return db
    .selectFrom('jobs')
    .select(['id', 'status', 'result', 'error'])
    .where(sql<boolean>`id = any(${ids}::uuid[])`)
    .where('finished_at', 'is not', null)
    .execute();
}

/** What the trace of a job's follower needs. */
export async function findTracedJob(
  db: Kysely<Database>,
  id: string,
  tenant: string,
): Promise<{ name: string; queue: string; tenant: string; carrier: TraceCarrier | undefined } | undefined> {
  const row = await db
    .selectFrom('jobs')
    .select(['name', 'queue', 'tenant', 'options'])
    .where('id', '=', id)
    .where('tenant', '=', tenant)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const { options, ...job } = row;
  return { ...job, carrier: readRowOptions(options).trace };
}
