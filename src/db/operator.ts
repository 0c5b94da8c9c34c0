/** Queries for what a person does to jobs that Bull Board shows: their rows, and changes of rows that wait. */
import { type Kysely, sql } from 'kysely';
import type { RowOptions } from './jobs/insert.ts';
import { readRowOptions } from './jobs/row-options.ts';
import { type JobSource, sourceRef } from './jobs/source.ts';
import { attemptsOf, type JobStatus, leaseHeld } from './jobs/states.ts';
import { findUnfinishedIds, type UnfinishedCursor } from './jobs/unfinished.ts';
import type { Database } from './schema.ts';
import { textArray } from './statement.ts';
import { closeHeads } from './streams/heads.ts';
import { segmentText } from './streams/segments.ts';

export interface ShownRow {
  id: string;
  tenant: string;
  name: string;
  status: JobStatus;
  /** A worker runs it: its lease has not expired. */
  held: boolean;
  /** Another client's job, guarded under its own id: nobody gave it a key. */
  keyless: boolean;
}

const SHOWN = sql.raw(`j.id, j.tenant, j.name, j.status,
  ${leaseHeld('j')} as held,
  j.options::text ~ '"keyless" *: *true' as keyless`);

export async function findShownRows(db: Kysely<Database>, ids: readonly string[]): Promise<Map<string, ShownRow>> {
  if (ids.length === 0) return new Map();
  const { rows } = await sql<ShownRow>`
    select ${SHOWN} from oncefleet.jobs j where j.id = any(${ids}::uuid[])`.execute(db);
  return new Map(rows.map((row) => [row.id, row]));
}

/**
 * The rows that jobs of other BullMQ clients deliver, in the order asked. A job that waits beside another
 * one with its key delivers none: what a person does to it is no matter of the row.
 */
export async function findForeignRows(
  db: Kysely<Database>,
  jobs: readonly Omit<JobSource, 'opts'>[],
): Promise<(ShownRow | undefined)[]> {
  if (jobs.length === 0) return [];
  const refs = jobs.map(sourceRef);
  const { rows } = await sql<ShownRow & { ref: string }>`
    select j.source_ref as ref, ${SHOWN} from oncefleet.jobs j where j.source_ref = any(${refs}::text[])`.execute(db);
  const byRef = new Map(rows.map((row) => [row.ref, row]));
  return refs.map((ref) => byRef.get(ref));
}

/**
 * Queues that rows name and that are not among `known`: of the newest rows and of unfinished ones,
 * because no index has the queues of all rows. A queue around which a processor is guarded is none
 * of the fleet's, whatever its name.
 *
 * @returns `prefix` is undefined for a queue of the fleet
 */
export async function findOtherQueues(
  db: Kysely<Database>,
  known: readonly string[],
  limits: { rows: number; queues: number },
): Promise<{ prefix: string | undefined; name: string }[]> {
  const { rows } = await sql<{ name: string; scope: string }>`
    select distinct queue as name, key_scope as scope from (
      (select queue, key_scope from oncefleet.jobs order by id desc limit ${limits.rows})
      union all
      (select j.queue, j.key_scope
       from (select job_id from oncefleet.unfinished_jobs limit ${limits.rows}) u join oncefleet.jobs j on j.id = u.job_id)
    ) as seen
    where key_scope <> '' or queue <> all(${known}::text[])
    order by queue, key_scope limit ${limits.queues}`.execute(db);
  return rows.map(({ name, scope }) => ({
    name,
    // The scope is `<prefix>:<queue>`.
    prefix: scope === '' ? undefined : scope.slice(0, -(name.length + 1)),
  }));
}

/** Changes when jobs that wait may run. @returns those that still waited */
export async function rescheduleWaiting(
  db: Kysely<Database>,
  ids: readonly string[],
  delayMs: number,
): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const { rows } = await sql<{ id: string }>`
    with waiting as (
      select id from oncefleet.jobs where id = any(${ids}::uuid[]) and status = 'pending' order by id for no key update
    ), moved as (
      update oncefleet.jobs j set run_at = clock_timestamp() + ${delayMs}::float8 * interval '1 ms'
      from waiting w where j.id = w.id
      returning j.id, j.run_at
    ), listed as (
      update oncefleet.unfinished_jobs u set run_at = m.run_at from moved m where u.job_id = m.id
    )
    select id from moved`.execute(db);
  return new Set(rows.map(({ id }) => id));
}

/** Changes the priority of a job that waits. @returns whether it still waited */
export async function reprioritiseWaiting(db: Kysely<Database>, id: string, priority: number): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const row = await trx
      .selectFrom('jobs')
      .select('options')
      .where('id', '=', id)
      .where('status', '=', 'pending')
      .forNoKeyUpdate()
      .executeTakeFirst();
    if (row === undefined) return false;
    const options: RowOptions = { ...readRowOptions(row.options), priority };
    await trx
      .updateTable('jobs')
      .set({ options: JSON.stringify(options) })
      .where('id', '=', id)
      .execute();
    return true;
  });
}

/** A page of a queue's jobs that wait, of all names given. */
export async function findWaitingOf(
  db: Kysely<Database>,
  { queue, names }: { queue: string; names: readonly string[] },
  page: { after: UnfinishedCursor | undefined; limit: number },
): Promise<{ rows: ShownRow[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, page);
  if (ids.length === 0) return { rows: [], end };
  const { rows } = await sql<ShownRow>`
    select ${SHOWN} from oncefleet.jobs j
    where j.id = any(${ids}::uuid[]) and j.queue = ${queue} and j.name = any(${names}::text[]) and j.status = 'pending'`.execute(
    db,
  );
  return { rows, end };
}

/** A job that was cancelled, and where its stream has the terminal event. */
interface Cancelled {
  id: string;
  fence: number;
  seq: number;
  tenant: string;
  name: string;
  queue: string;
  /** Attempts that the job has had. */
  attempts: number;
}

/**
 * Cancels jobs that wait: status, terminal event, ledger and list in one statement. A row that
 * is locked (by a claim, another end) is left out.
 *
 * @param jobs with the error of each as JSON text
 * @param terminalJson the terminal event
 */
export async function cancelWaiting(
  db: Kysely<Database>,
  jobs: readonly { id: string; errorJson: string }[],
  { terminalJson, resultTtlMs }: { terminalJson: string; resultTtlMs: number },
): Promise<Cancelled[]> {
  if (jobs.length === 0) return [];
  const { rows } = await sql<Cancelled>`
    with want as (
      select * from unnest(${jobs.map(({ id }) => id)}::uuid[], ${textArray(jobs.map(({ errorJson }) => errorJson))}::text[])
        as w (id, error)
    ), held as (
      select j.id, j.fence + 1 as fence, w.error, j.tenant, j.name, j.queue, ${sql.raw(attemptsOf('j'))} as attempts
      from want w join oncefleet.jobs j on j.id = w.id
      where j.status = 'pending'
      order by j.id
      for update of j skip locked
    ), head as (
      ${sql.raw(closeHeads('held'))}
    ), segment as (
      insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      select h.id, s.next_seq - 1, s.next_seq - 1, h.fence, ${segmentText([terminalJson])}::json
      from held h join head s on s.stream_id = h.id
    ), ended as (
      update oncefleet.jobs j set
        status = 'cancelled',
        fence = h.fence,
        error = h.error::json,
        last_outcome = 'cancelled',
        cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()),
        finished_at = clock_timestamp(),
        expires_at = clock_timestamp() + ${resultTtlMs}::float8 * interval '1 ms'
      from held h where j.id = h.id
    ), finished as (
      delete from oncefleet.unfinished_jobs u using held h where u.job_id = h.id
    )
    select h.id, h.fence, s.next_seq - 1 as seq, h.tenant, h.name, h.queue, h.attempts from held h join head s on s.stream_id = h.id`.execute(
    db,
  );
  return rows;
}
