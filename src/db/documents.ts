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
  analyserVersion: number;
  /** The language it was analysed in. */
  language: string;
  chunkCount: number;
  revision: number;
  jobId: string;
  updatedAt: Date;
}

interface DocumentVersion {
  path: string;
  title: string;
  contentHash: string;
  chunkerVersion: number;
  analyserVersion: number;
  /** The language it is analysed in. */
  language: string;
  byteLength: number;
  chunkCount: number;
}

interface WrittenDocument {
  id: string;
  path: string;
  /** 1 when it was added. */
  revision: number;
  /** What the search index calls this version. */
  searchNumber: number;
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

/** What language its documents are analysed in, and since when. */
export async function findCollectionLanguage(
  db: Kysely<Database>,
  collectionId: string,
): Promise<{ language: string | null; since: Date | null }> {
  const row = await db
    .selectFrom('collections')
    .select(['language', 'language_since as since'])
    .where('id', '=', collectionId)
    .executeTakeFirst();
  return row ?? { language: null, since: null };
}

/** Makes the collection if need be. @param language null: that of each document is detected */
export async function setCollectionLanguage(
  trx: Transaction<Database>,
  tenant: string,
  name: string,
  language: string | null,
): Promise<void> {
  const id = await upsertCollection(trx, tenant, name);
  await trx
    .updateTable('collections')
    .set({ language, language_since: sql<Date>`clock_timestamp()` })
    .where('id', '=', id)
    .where('language', 'is distinct from', language)
    .execute();
}

/** What the collection holds under these paths. */
export async function findDocumentStates(
  db: Kysely<Database>,
  collectionId: string,
  paths: readonly string[],
): Promise<Map<string, DocumentState>> {
  const rows = await db
    .selectFrom('documents')
    .select(['id', 'path', 'content_hash', 'chunker_version', 'analyser_version', 'language', 'chunk_count'])
    .select(['revision', 'job_id', 'updated_at'])
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
        analyserVersion: row.analyser_version,
        language: row.language,
        chunkCount: row.chunk_count,
        revision: row.revision,
        jobId: row.job_id,
        updatedAt: row.updated_at,
      },
    ]),
  );
}

/**
 * Writes documents unless the same versions are there already, and locks their rows for the rest of the transaction, in
 * the order of their paths, so that two such transactions cannot deadlock.
 *
 * @returns those that were written; another writer may have brought the others since they were last read
 */
export async function upsertDocuments(
  trx: Transaction<Database>,
  collectionId: string,
  jobId: string,
  versions: readonly DocumentVersion[],
): Promise<WrittenDocument[]> {
  const { rows } = await sql<WrittenDocument>`
    insert into oncefleet.documents as d
      (collection_id, path, title, content_hash, chunker_version, analyser_version, language, byte_length, chunk_count, job_id)
    select ${collectionId}::uuid, path, title, content_hash, chunker_version, analyser_version, language, byte_length, chunk_count, ${jobId}::uuid
    from unnest(
      ${versions.map(({ path }) => path)}::text[], ${versions.map(({ title }) => title)}::text[],
      ${versions.map(({ contentHash }) => contentHash)}::text[], ${versions.map(({ chunkerVersion }) => chunkerVersion)}::integer[],
      ${versions.map(({ analyserVersion }) => analyserVersion)}::integer[], ${versions.map(({ language }) => language)}::text[],
      ${versions.map(({ byteLength }) => byteLength)}::integer[], ${versions.map(({ chunkCount }) => chunkCount)}::integer[]
    ) as v (path, title, content_hash, chunker_version, analyser_version, language, byte_length, chunk_count)
    order by path collate "C"
    on conflict (collection_id, path) do update set
      title = excluded.title, content_hash = excluded.content_hash, chunker_version = excluded.chunker_version,
      analyser_version = excluded.analyser_version, language = excluded.language, byte_length = excluded.byte_length,
      chunk_count = excluded.chunk_count, job_id = excluded.job_id, revision = d.revision + 1, search_number = default,
      updated_at = clock_timestamp()
    where (d.content_hash, d.chunker_version, d.analyser_version, d.language)
      is distinct from (excluded.content_hash, excluded.chunker_version, excluded.analyser_version, excluded.language)
    returning d.id, d.path, d.revision, d.search_number as "searchNumber"`.execute(trx);
  return rows;
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
    .orderBy(sql`path collate "C"`)
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
