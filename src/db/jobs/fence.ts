import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from '../schema.ts';
import { raiseHeads } from '../streams/heads.ts';
import type { ClaimedJob } from './claim.ts';

/** Saves a checkpoint at a fence. @returns false when the fence is lost */
export async function saveCheckpoint(
  db: Kysely<Database>,
  checkpoint: { id: string; fence: number; value: string; seq: number },
): Promise<boolean> {
  const result = await db
    .updateTable('jobs')
    .set({ checkpoint: sql`${checkpoint.value}::json`, checkpoint_seq: checkpoint.seq })
    .where('id', '=', checkpoint.id)
    .where('fence', '=', checkpoint.fence)
    .where('status', '=', 'running')
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/**
 * Holds a job's fence until the transaction ends: no takeover commits before it.
 *
 * @param idleLimitMs Postgres ends the transaction when its owner has sent nothing for this
 *   time (a frozen process must not hold the row for ever)
 * @returns false when the fence is lost
 */
export async function lockFence(
  trx: Transaction<Database>,
  id: string,
  fence: number,
  idleLimitMs: number,
): Promise<boolean> {
  const rows = await sql<{ id: string }>`
    select id, set_config('idle_in_transaction_session_timeout', ${String(idleLimitMs)}, true)
    from oncefleet.jobs where id = ${id} and fence = ${fence} and status = 'running'
    for key share`.execute(trx);
  return rows.rows.length > 0;
}

/**
 * Takes a job over from its own run: the fence goes up, and the stream's head with it. What
 * the run commits from now on has another fence than what it sent ahead of its commit.
 * Idempotent: the owner of the next fence, if it is the same, has raised it before.
 *
 * @returns the new fence; undefined when the old one is lost
 */
export async function raiseFence(
  db: Kysely<Database>,
  { id, owner, fence }: Pick<ClaimedJob, 'id' | 'owner' | 'fence'>,
): Promise<number | undefined> {
  const result = await sql<{ fence: number }>`
    with held as (
      select id from oncefleet.jobs
      where id = ${id} and lease_owner = ${owner} and fence in (${fence}, ${fence}::bigint + 1) and status = 'running'
      for update
    ), raised as (
      update oncefleet.jobs j set fence = ${fence}::bigint + 1 from held where j.id = held.id
      returning j.id, j.fence
    )
    ${sql.raw(raiseHeads('raised'))}`.execute(db);
  return result.rows[0]?.fence;
}
