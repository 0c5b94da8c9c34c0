/** Queries of `collections` and `documents`. Their chunks are in chunks.ts. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

interface CollectionSummary {
  id: string;
  name: string;
  documents: number;
  chunks: number;
}

export interface DocumentState {
  id: string;
  path: string;
  contentHash: string;
  chunkerVersion: number;
  chunkCount: number;
  revision: number;
  jobId: string;
}

interface DocumentVersion {
  collectionId: string;
  path: string;
  title: string;
  contentHash: string;
  chunkerVersion: number;
  byteLength: number;
  chunkCount: number;
  jobId: string;
}

export async function findCollection(
  db: Kysely<Database>,
  tenant: string,
  name: string,
): Promise<{ id: string } | undefined> {
  return db
    .selectFrom('collections')
    .select('id')
    .where('tenant', '=', tenant)
    .where('name', '=', name)
    .executeTakeFirst();
}

/** A tenant's collections by name, at most `limit`. */
export async function findCollections(
  db: Kysely<Database>,
  tenant: string,
  limit: number,
): Promise<CollectionSummary[]> {
  return db
    .selectFrom('collections as c')
    .leftJoin('documents as d', 'd.collection_id', 'c.id')
    .select((eb) => [
      'c.id',
      'c.name',
      eb.fn.count<number>('d.id').as('documents'),
      sql<number>`coalesce(sum(d.chunk_count), 0)::bigint`.as('chunks'),
    ])
    .where('c.tenant', '=', tenant)
    .groupBy('c.id')
    .orderBy('c.name')
    .limit(limit)
    .execute();
}

/** The collection of that name, made if need be; two callers at once get the same one. */
export async function upsertCollection(trx: Transaction<Database>, tenant: string, name: string): Promise<string> {
  const found = await findCollection(trx, tenant, name);
  if (found !== undefined) return found.id;
  await trx
    .insertInto('collections')
    .values({ tenant, name })
    .onConflict((oc) => oc.columns(['tenant', 'name']).doNothing())
    .execute();
  const inserted = await trx
    .selectFrom('collections')
    .select('id')
    .where('tenant', '=', tenant)
    .where('name', '=', name)
    .executeTakeFirstOrThrow();
  return inserted.id;
}

/** What the collection holds under these paths. */
export async function findDocumentStates(
  db: Kysely<Database>,
  collectionId: string,
  paths: readonly string[],
): Promise<Map<string, DocumentState>> {
  const rows = await db
    .selectFrom('documents')
    .select(['id', 'path', 'content_hash', 'chunker_version', 'chunk_count', 'revision', 'job_id'])
    .where('collection_id', '=', collectionId)
    .where('path', '=', sql<string>`any(${sql.val([...paths])}::text[])`)
    .execute();
  return new Map(
    rows.map((row) => [
      row.path,
      {
        id: row.id,
        path: row.path,
        contentHash: row.content_hash,
        chunkerVersion: row.chunker_version,
        chunkCount: row.chunk_count,
        revision: row.revision,
        jobId: row.job_id,
      },
    ]),
  );
}

/**
 * Writes a document unless the same version is there already, and locks its row for the
 * rest of the transaction.
 *
 * @returns `undefined` when another writer has brought the same version since it was last read
 */
export async function upsertDocument(
  trx: Transaction<Database>,
  version: DocumentVersion,
): Promise<{ id: string; revision: number } | undefined> {
  return trx
    .insertInto('documents')
    .values({
      collection_id: version.collectionId,
      path: version.path,
      title: version.title,
      content_hash: version.contentHash,
      chunker_version: version.chunkerVersion,
      byte_length: version.byteLength,
      chunk_count: version.chunkCount,
      job_id: version.jobId,
    })
    .onConflict((oc) =>
      oc
        .columns(['collection_id', 'path'])
        .doUpdateSet({
          title: (eb) => eb.ref('excluded.title'),
          content_hash: (eb) => eb.ref('excluded.content_hash'),
          chunker_version: (eb) => eb.ref('excluded.chunker_version'),
          byte_length: (eb) => eb.ref('excluded.byte_length'),
          chunk_count: (eb) => eb.ref('excluded.chunk_count'),
          job_id: (eb) => eb.ref('excluded.job_id'),
          revision: sql<number>`documents.revision + 1`,
          updated_at: sql<Date>`clock_timestamp()`,
        })
        .where((eb) =>
          eb.or([
            eb('documents.content_hash', '<>', eb.ref('excluded.content_hash')),
            eb('documents.chunker_version', '<>', eb.ref('excluded.chunker_version')),
          ]),
        ),
    )
    .returning(['id', 'revision'])
    .executeTakeFirst();
}

export async function countMissingDocuments(
  db: Kysely<Database>,
  collectionId: string,
  paths: readonly string[],
): Promise<number> {
  const row = await db
    .selectFrom('documents')
    .select((eb) => eb.fn.countAll<number>().as('count'))
    .where('collection_id', '=', collectionId)
    .where('path', '<>', sql<string>`all(${sql.val([...paths])}::text[])`)
    .executeTakeFirstOrThrow();
  return row.count;
}

/** Deletes what is not under one of these paths. Rows are locked in the order of their paths, so that two such cannot deadlock. */
export async function deleteMissingDocuments(
  trx: Transaction<Database>,
  collectionId: string,
  paths: readonly string[],
): Promise<string[]> {
  const locked = await trx
    .selectFrom('documents')
    .select(['id', 'path'])
    .where('collection_id', '=', collectionId)
    .where('path', '<>', sql<string>`all(${sql.val([...paths])}::text[])`)
    .orderBy('path')
    .forUpdate()
    .execute();
  await deleteDocuments(
    trx,
    locked.map(({ id }) => id),
  );
  return locked.map(({ path }) => path);
}

/** Deletes documents with their chunks. The caller holds the locks on their rows. */
export async function deleteDocuments(trx: Transaction<Database>, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await trx
    .deleteFrom('documents')
    .where('id', '=', sql<string>`any(${sql.val([...ids])}::uuid[])`)
    .execute();
}
