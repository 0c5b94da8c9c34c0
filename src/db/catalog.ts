/** What a tenant's collections hold, a page at a time, and its removal in parts. */
import { type Kysely, type SelectQueryBuilder, sql } from 'kysely';
import { deleteDocuments } from './documents.ts';
import type { Database } from './schema.ts';

/** Characters of a title that a page shows. */
const MAX_TITLE_LENGTH = 500;
/** Documents that one transaction of a removal deletes. */
const REMOVAL_BATCH = 100;

export interface CollectionRow {
  id: string;
  name: string;
  /** Null: that of each document is detected. */
  language: string | null;
  documents: number;
  chunks: number;
  /** Of the documents as they were given. */
  bytes: number;
  created_at: Date;
  updated_at: Date | null;
}

export interface DocumentRow {
  id: string;
  path: string;
  title: string;
  content_hash: string;
  byte_length: number;
  chunk_count: number;
  revision: number;
  job_id: string;
  updated_at: Date;
}

export interface ChunkRow {
  ordinal: number;
  heading: string;
  content: string;
  start: number | null;
  end: number | null;
  page: number | null;
}

/** Collections with these names, or those after a name, by name. */
export async function listCollections(
  db: Kysely<Database>,
  tenant: string,
  { name, after, limit }: { name?: string; after?: string | undefined; limit: number },
): Promise<CollectionRow[]> {
  const { rows } = await sql<CollectionRow>`
    select c.id, c.name, c.language, c.created_at, d.documents, d.chunks, d.bytes, d.updated_at
    from (
      select * from oncefleet.collections
      where tenant = ${tenant}
        ${name === undefined ? sql`` : sql`and name = ${name}`} ${after === undefined ? sql`` : sql`and name > ${after}`}
      order by name limit ${limit}
    ) c
    cross join lateral (
      select count(*) as documents, coalesce(sum(chunk_count), 0)::bigint as chunks,
        coalesce(sum(byte_length), 0)::bigint as bytes, max(updated_at) as updated_at
      from oncefleet.documents where collection_id = c.id
    ) d
    order by c.name`.execute(db);
  return rows;
}

/** Documents after a path, by path. */
export async function listDocuments(
  db: Kysely<Database>,
  collectionId: string,
  { after, limit }: { after?: string | undefined; limit: number },
): Promise<DocumentRow[]> {
  let query = documentColumns(db).where('collection_id', '=', collectionId);
  if (after !== undefined) query = query.where('path', '>', after);
  return query.orderBy('path').limit(limit).execute();
}

/** @param by its id, or its path */
export async function findDocument(
  db: Kysely<Database>,
  collectionId: string,
  by: { id: string } | { path: string },
): Promise<DocumentRow | undefined> {
  const query = documentColumns(db).where('collection_id', '=', collectionId);
  return ('id' in by ? query.where('id', '=', by.id) : query.where('path', '=', by.path)).executeTakeFirst();
}

function documentColumns(db: Kysely<Database>): SelectQueryBuilder<Database, 'documents', DocumentRow> {
  return db
    .selectFrom('documents')
    .select([
      'id',
      'path',
      sql<string>`left(title, ${sql.lit(MAX_TITLE_LENGTH)})`.as('title'),
      'content_hash',
      'byte_length',
      'chunk_count',
      'revision',
      'job_id',
      'updated_at',
    ]);
}

/** Chunks after an ordinal, in order: at least one, where there is one, and no more than `maxBytes` hold. */
export async function listChunks(
  db: Kysely<Database>,
  documentId: string,
  { after, limit, maxBytes }: { after: number; limit: number; maxBytes: number },
): Promise<ChunkRow[]> {
  const { rows } = await sql<ChunkRow>`
    select ordinal, heading, content, start_offset as start, end_offset as "end", page
    from (
      select ordinal, heading, content, start_offset, end_offset, next.page,
        sum(octet_length(content) + octet_length(heading)) over (order by ordinal) as bytes, row_number() over (order by ordinal) as n
      from (
        select * from oncefleet.chunks where document_id = ${documentId} and ordinal > ${after} order by ordinal limit ${limit}
      ) next
    ) page
    where bytes <= ${maxBytes} or n = 1
    order by ordinal`.execute(db);
  return rows;
}

/** Deletes a document with its chunks. @returns false: it is not there any more */
export async function deleteDocument(db: Kysely<Database>, id: string): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const locked = await trx.selectFrom('documents').select('id').where('id', '=', id).forUpdate().executeTakeFirst();
    if (locked === undefined) return false;
    await deleteDocuments(trx, [id]);
    return true;
  });
}

/**
 * Deletes a collection: its documents in parts, each a transaction of its own, then the collection. What is
 * ingested meanwhile goes with it.
 *
 * @returns how many documents it had
 */
export async function deleteCollection(db: Kysely<Database>, collectionId: string): Promise<number> {
  let deleted = 0;
  for (;;) {
    const part = await db.transaction().execute(async (trx) => {
      // In the order in which every removal of several locks them.
      const locked = await trx
        .selectFrom('documents')
        .select('id')
        .where('collection_id', '=', collectionId)
        .orderBy('path')
        .limit(REMOVAL_BATCH)
        .forUpdate()
        .execute();
      await deleteDocuments(
        trx,
        locked.map(({ id }) => id),
      );
      return locked.length;
    });
    deleted += part;
    if (part < REMOVAL_BATCH) break;
  }
  await db.deleteFrom('collections').where('id', '=', collectionId).execute();
  return deleted;
}
