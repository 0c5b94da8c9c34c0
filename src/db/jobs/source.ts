import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import type { ClaimedJob } from './claim.ts';

/** The BullMQ job that delivers a row, where another BullMQ client added it. */
export interface JobSource {
  /** What BullMQ puts before the keys of its queue. */
  prefix: string;
  queue: string;
  /** BullMQ's id of it. */
  id: string;
  /** When it was added, in milliseconds since 1970. With it the id names one job for good: ids are used again after a flush. */
  timestamp: number;
  /** Its options in BullMQ. */
  opts: Readonly<Record<string, unknown>>;
}

/** What `source_ref` holds: one text for one BullMQ job. */
export function sourceRef({ prefix, queue, id, timestamp }: Omit<JobSource, 'opts'>): string {
  return JSON.stringify([prefix, queue, id, timestamp]);
}

/**
 * The row that a BullMQ job delivers, by that job and not by its key: its data may have changed since.
 *
 * @param job.rowId the row that the fleet says it delivers, where it was the fleet that added it
 * @returns `isSource`: the row says so too
 */
export async function findJobBySource(
  db: Kysely<Database>,
  job: { ref: string; rowId: string | undefined; keyScope: string },
): Promise<{ id: string; isSource: boolean } | undefined> {
  const { rows } = await sql<{ id: string; isSource: boolean }>`
    select id, true as "isSource" from oncefleet.jobs where source_ref = ${job.ref} and key_scope = ${job.keyScope}
    union all
    select id, false from oncefleet.jobs
    where id = ${job.rowId ?? null}::uuid and source_ref is not null and key_scope = ${job.keyScope}
    limit 1`.execute(db);
  return rows[0];
}

/** Says which BullMQ job delivers a row from now on; null: one of the fleet. @param at only at this fence, or while it waits */
export async function setSource(
  db: Kysely<Database>,
  id: string,
  source: JobSource | null,
  at: { fence: number } | 'pending',
): Promise<void> {
  let update = db
    .updateTable('jobs')
    .set({
      source: source === null ? null : JSON.stringify(source),
      source_ref: source === null ? null : sourceRef(source),
    })
    .where('id', '=', id);
  update =
    at === 'pending'
      ? update.where('status', '=', 'pending')
      : update.where('fence', '=', at.fence).where('status', '=', 'running');
  await update.execute();
}

/** Keeps what BullMQ now has as a job's data, at a fence. */
export async function saveInput(
  db: Kysely<Database>,
  { id, fence }: Pick<ClaimedJob, 'id' | 'fence'>,
  input: string,
): Promise<void> {
  await db
    .updateTable('jobs')
    .set({ input })
    .where('id', '=', id)
    .where('fence', '=', fence)
    .where('status', '=', 'running')
    .execute();
}

/** JSON text of a job's input. */
export async function findInput(db: Kysely<Database>, id: string): Promise<string | undefined> {
  return (await db.selectFrom('jobs').select('input').where('id', '=', id).executeTakeFirst())?.input;
}
