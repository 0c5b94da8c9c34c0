/** Queries on `paused_queues`. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

export interface Pause {
  prefix: string;
  queue: string;
  id: string;
  /** What paused it. */
  by: string;
}

/**
 * Keeps every other process from changing a queue's pause until the transaction ends.
 *
 * @param idleLimitMs Postgres ends the transaction when its owner has sent nothing for this time
 */
export async function lockPause(
  trx: Transaction<Database>,
  { prefix, queue }: Pick<Pause, 'prefix' | 'queue'>,
  idleLimitMs: number,
): Promise<void> {
  await sql`
    select set_config('idle_in_transaction_session_timeout', ${String(idleLimitMs)}, true),
      pg_advisory_xact_lock(hashtextextended(${`oncefleet pause ${prefix}:${queue}`}, 0))`.execute(trx);
}

export async function findPause(
  db: Kysely<Database>,
  { prefix, queue }: Pick<Pause, 'prefix' | 'queue'>,
): Promise<Pause | undefined> {
  return db
    .selectFrom('paused_queues')
    .select(['prefix', 'queue', 'id', 'paused_by as by'])
    .where('prefix', '=', prefix)
    .where('queue', '=', queue)
    .executeTakeFirst();
}

export async function findPauses(db: Kysely<Database>, limit: number): Promise<Pause[]> {
  return db
    .selectFrom('paused_queues')
    .select(['prefix', 'queue', 'id', 'paused_by as by'])
    .orderBy('paused_at')
    .limit(limit)
    .execute();
}

export async function insertPause(db: Kysely<Database>, { prefix, queue, id, by }: Pause): Promise<void> {
  await db.insertInto('paused_queues').values({ prefix, queue, id, paused_by: by }).execute();
}

export async function deletePause(
  db: Kysely<Database>,
  { prefix, queue }: Pick<Pause, 'prefix' | 'queue'>,
): Promise<void> {
  await db.deleteFrom('paused_queues').where('prefix', '=', prefix).where('queue', '=', queue).execute();
}
