/** Queries for what a person does to jobs that BullMQ shows: their rows, and changes of rows that wait. */
import { type Kysely, sql } from 'kysely';
import { findUnfinishedIds, type RowOptions, type UnfinishedCursor } from './jobs.ts';
import { FOLD_FROM_SEQ, segmentText } from './journal.ts';
import type { Database } from './schema.ts';
import { textArray } from './statement.ts';

export interface ShownRow {
  id: string;
  tenant: string;
  name: string;
  status: 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
  /** Somebody runs it: its lease has not expired. */
  held: boolean;
}

const SHOWN = sql.raw(`j.id, j.tenant, j.name, j.status,
  coalesce(j.status = 'running' and j.lease_expires_at > clock_timestamp(), false) as held`);

export async function findShownRows(db: Kysely<Database>, ids: readonly string[]): Promise<Map<string, ShownRow>> {
  if (ids.length === 0) return new Map();
  const { rows } = await sql<ShownRow>`
    select ${SHOWN} from jobs j where j.id = any(${ids}::uuid[])`.execute(db);
  return new Map(rows.map((row) => [row.id, row]));
}

/** A BullMQ job that another client added, as far as its row may be known by it. */
export interface ForeignJob {
  tenant: string;
  name: string;
  /** Its keys in the order they are to be tried. */
  keys: readonly string[];
}

/**
 * The rows of jobs that other clients added to a queue, in the order asked.
 *
 * The only place that knows how such a row is found.
 */
export async function findForeignRows(
  db: Kysely<Database>,
  queue: { prefix: string; name: string },
  jobs: readonly ForeignJob[],
): Promise<(ShownRow | undefined)[]> {
  const wanted = jobs.flatMap(({ tenant, name, keys }, place) => keys.map((key) => ({ tenant, name, key, place })));
  if (wanted.length === 0) return jobs.map(() => undefined);
  const { rows } = await sql<ShownRow & { place: number }>`
    select distinct on (k.place) k.place, ${SHOWN}
    from unnest(${wanted.map((one) => one.tenant)}::text[], ${wanted.map((one) => one.name)}::text[],
        ${wanted.map((one) => one.key)}::text[], ${wanted.map((one) => one.place)}::int[])
      with ordinality as k (tenant, name, key, place, turn)
    join jobs j on j.tenant = k.tenant and j.name = k.name and j.idempotency_key = k.key and not j.key_released
    where j.queue = ${queue.name}
    order by k.place, k.turn`.execute(db);
  const byPlace = new Map(rows.map((row) => [row.place, row]));
  return jobs.map((_, place) => byPlace.get(place));
}

/**
 * Queues that rows name and that are not among `known`: of the newest rows and of unfinished ones,
 * because no index tells the queues of all rows.
 *
 * @returns `prefix` is undefined where the row does not tell it
 */
export async function findOtherQueues(
  db: Kysely<Database>,
  known: readonly string[],
  limits: { rows: number; queues: number },
): Promise<{ prefix: string | undefined; name: string }[]> {
  const { rows } = await sql<{ name: string }>`
    select distinct queue as name from (
      (select queue from jobs order by id desc limit ${limits.rows})
      union all
      (select j.queue from (select job_id from unfinished_jobs limit ${limits.rows}) u join jobs j on j.id = u.job_id)
    ) as seen
    where queue <> all(${known}::text[])
    order by queue limit ${limits.queues}`.execute(db);
  return rows.map(({ name }) => ({ prefix: undefined, name }));
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
      select id from jobs where id = any(${ids}::uuid[]) and status = 'pending' order by id for no key update
    ), moved as (
      update jobs j set run_at = clock_timestamp() + ${delayMs}::float8 * interval '1 ms'
      from waiting w where j.id = w.id
      returning j.id, j.run_at
    ), listed as (
      update unfinished_jobs u set run_at = m.run_at from moved m where u.job_id = m.id
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
    const options: RowOptions = { ...(JSON.parse(row.options) as RowOptions), priority };
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
    select ${SHOWN} from jobs j
    where j.id = any(${ids}::uuid[]) and j.queue = ${queue} and j.name = any(${names}::text[]) and j.status = 'pending'`.execute(
    db,
  );
  return { rows, end };
}

/** A job that was cancelled, and the event to publish. */
export interface Cancelled {
  id: string;
  fence: number;
  seq: number;
}

/**
 * Cancels jobs that wait: status, terminal event, ledger and list in one statement. A row that
 * somebody has locked (a claim, another end) is left out.
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
      select j.id, j.fence + 1 as fence, w.error from want w join jobs j on j.id = w.id
      where j.status = 'pending'
      order by j.id
      for update of j skip locked
    ), head as (
      insert into stream_heads (stream_id, fence, next_seq, state)
      select id, fence, 1, 'closed' from held
      on conflict (stream_id) do update set
        fence = excluded.fence,
        next_seq = stream_heads.next_seq + 1,
        state = 'closed',
        fold_due = case when stream_heads.next_seq >= ${sql.lit(FOLD_FROM_SEQ)} then true end
      returning stream_id, next_seq
    ), segment as (
      insert into journal_segments (stream_id, first_seq, last_seq, fence, events)
      select h.id, s.next_seq - 1, s.next_seq - 1, h.fence, ${segmentText([terminalJson])}::json
      from held h join head s on s.stream_id = h.id
    ), ended as (
      update jobs j set
        status = 'cancelled',
        fence = h.fence,
        error = h.error::json,
        last_outcome = 'cancelled',
        cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()),
        finished_at = clock_timestamp(),
        expires_at = clock_timestamp() + ${resultTtlMs}::float8 * interval '1 ms'
      from held h where j.id = h.id
    ), finished as (
      delete from unfinished_jobs u using held h where u.job_id = h.id
    )
    select h.id, h.fence, s.next_seq - 1 as seq from held h join head s on s.stream_id = h.id`.execute(db);
  return rows;
}
