/** Queries of `embedding_turns`: which job embeds the chunks of a collection. */
import { sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

/**
 * Makes this job the one that embeds the collection's chunks.
 *
 * @returns `taken` while another running job is it; `gone`: there is no such collection
 */
export async function takeEmbeddingTurn(
  trx: Transaction<Database>,
  collectionId: string,
  jobId: string,
): Promise<'ours' | 'taken' | 'gone'> {
  const collection = await sql`
    select from oncefleet.collections where id = ${collectionId} for key share`.execute(trx);
  if (collection.rows.length === 0) return 'gone';
  const { rows } = await sql`
    insert into oncefleet.embedding_turns as t (collection_id, job_id) values (${collectionId}, ${jobId})
    on conflict (collection_id) do update set job_id = excluded.job_id, taken_at = clock_timestamp()
    where t.job_id = excluded.job_id or not exists (
      select from oncefleet.jobs j
      where j.id = t.job_id and j.status = 'running' and j.lease_expires_at > clock_timestamp()
    )
    returning job_id`.execute(trx);
  return rows.length > 0 ? 'ours' : 'taken';
}

/** Lets the next job have its turn. */
export async function endEmbeddingTurn(trx: Transaction<Database>, collectionId: string, jobId: string): Promise<void> {
  await trx
    .deleteFrom('embedding_turns')
    .where('collection_id', '=', collectionId)
    .where('job_id', '=', jobId)
    .execute();
}
