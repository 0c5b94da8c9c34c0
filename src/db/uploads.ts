/** Queries of `uploads` and `upload_parts`: documents as they were sent, until their job has ended. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

/** How long after its last part an upload waits to be enqueued: its request has died. */
const UNCLAIMED_MS = 3_600_000;
/** A failed job may be redriven, and needs its documents for that. */
const FAILED_MS = 86_400_000;

interface NewUpload {
  id: string;
  tenant: string;
  path: string;
  contentType: string | undefined;
}

interface StoredUpload {
  id: string;
  contentType: string | null;
  byteLength: number;
}

export async function insertUpload(db: Kysely<Database>, upload: NewUpload): Promise<void> {
  const { id, tenant, path, contentType } = upload;
  await db
    .insertInto('uploads')
    .values({ id, tenant, path, content_type: contentType ?? null })
    .execute();
}

/** @returns false: the upload is not there any more, or has its job */
export async function appendPart(db: Kysely<Database>, id: string, ordinal: number, bytes: Buffer): Promise<boolean> {
  const { numAffectedRows } = await sql`
    with touched as (
      update oncefleet.uploads set byte_length = byte_length + ${bytes.length}, touched_at = clock_timestamp()
      where id = ${id} and job_id is null
      returning id
    )
    insert into oncefleet.upload_parts (upload_id, ordinal, bytes)
    select id, ${ordinal}, ${bytes}::bytea from touched`.execute(db);
  return numAffectedRows === 1n;
}

/** Marks it as stored to its end. */
export async function finishUpload(db: Kysely<Database>, id: string, sha256: string): Promise<void> {
  await db.updateTable('uploads').set({ sha256 }).where('id', '=', id).execute();
}

/** Bytes of a tenant's documents that are stored now. */
export async function countUploadBytes(db: Kysely<Database>, tenant: string): Promise<number> {
  const row = await db
    .selectFrom('uploads')
    .select((eb) => sql<number>`coalesce(sum(${eb.ref('byte_length')}), 0)::bigint`.as('bytes'))
    .where('tenant', '=', tenant)
    .executeTakeFirstOrThrow();
  return row.bytes;
}

/** Gives uploads to the job that ingests them. @returns how many there were */
export async function attachUploads(
  trx: Transaction<Database>,
  ids: readonly string[],
  jobId: string,
): Promise<number> {
  const { numUpdatedRows } = await trx
    .updateTable('uploads')
    .set({ job_id: jobId })
    .where('id', '=', sql<string>`any(${sql.val([...ids])}::uuid[])`)
    .where('job_id', 'is', null)
    .where('sha256', 'is not', null)
    .executeTakeFirst();
  return Number(numUpdatedRows);
}

export async function deleteUploads(db: Kysely<Database>, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await db
    .deleteFrom('uploads')
    .where('id', '=', sql<string>`any(${sql.val([...ids])}::uuid[])`)
    .execute();
}

/** A job's own document of this content; no other job has it. */
export async function findUpload(
  db: Kysely<Database>,
  { jobId, tenant, path, sha256 }: { jobId: string; tenant: string; path: string; sha256: string },
): Promise<StoredUpload | undefined> {
  return db
    .selectFrom('uploads')
    .select(['id', 'content_type as contentType', 'byte_length as byteLength'])
    .where('job_id', '=', jobId)
    .where('tenant', '=', tenant)
    .where('path', '=', path)
    .where('sha256', '=', sha256)
    .executeTakeFirst();
}

/** Its bytes, a part at a time. */
export async function* readParts(db: Kysely<Database>, id: string): AsyncGenerator<Buffer, void, undefined> {
  for (let ordinal = 0; ; ordinal++) {
    const row = await db
      .selectFrom('upload_parts')
      .select('bytes')
      .where('upload_id', '=', id)
      .where('ordinal', '=', ordinal)
      .executeTakeFirst();
    if (row === undefined) return;
    yield row.bytes;
  }
}

/**
 * Removes uploads that no job will read: of jobs that have ended (a failed one a day ago, for it may be redriven) or
 * are gone, and those whose request died before it enqueued.
 *
 * @returns how many there were, at most `limit`
 */
export async function sweepUploads(db: Kysely<Database>, limit: number): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from oncefleet.uploads where id in (
      select u.id from oncefleet.uploads u left join oncefleet.jobs j on j.id = u.job_id
      where case
        when u.job_id is null then u.touched_at < clock_timestamp() - ${UNCLAIMED_MS} * interval '1 ms'
        when j.id is null then true
        when j.status = 'failed' then j.finished_at < clock_timestamp() - ${FAILED_MS} * interval '1 ms'
        else j.status in ('completed', 'cancelled')
      end
      order by u.id limit ${limit}
      for update of u skip locked
    )`.execute(db);
  return Number(numAffectedRows ?? 0n);
}
