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
 * @returns undefined when the fence is lost
 */
export async function lockFence(
  trx: Transaction<Database>,
  id: string,
  fence: number,
  idleLimitMs: number,
): Promise<TransactionMark | undefined> {
  // The lock gives the transaction an id anyhow.
  const { rows } = await sql<TransactionMark>`
    select pg_current_xact_id()::text as xid, ${SERVER} as server,
      set_config('idle_in_transaction_session_timeout', ${String(idleLimitMs)}, true)
    from oncefleet.jobs where id = ${id} and fence = ${fence} and status = 'running'
    for key share`.execute(trx);
  return rows[0];
}

/** By what a transaction is asked about afterwards. */
export interface TransactionMark {
  xid: string;
  /** Another server, to which its replica failed over, may have given the same id to another transaction. */
  server: string;
}

/** SQL: tells a running server from every other. */
const SERVER = sql.raw('extract(epoch from pg_postmaster_start_time())::text');

/** What became of a transaction whose COMMIT had no answer. */
export async function findCommit(
  db: Kysely<Database>,
  { xid, server }: TransactionMark,
): Promise<'committed' | 'aborted' | 'in progress' | 'unknown'> {
  const { rows } = await sql<{ status: 'committed' | 'aborted' | 'in progress' | null; server: string }>`
    select pg_xact_status(${xid}::xid8) as status, ${SERVER} as server`.execute(db);
  const [row] = rows;
  return row?.server === server ? (row.status ?? 'unknown') : 'unknown';
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
