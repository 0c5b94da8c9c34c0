/**
 * Queries of `chunk_vectors`: the embeddings of chunks, some consecutive ones a row. What the bytes mean is known in
 * src/search/vectors.ts.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

export interface EmbeddingModel {
  id: number;
  name: string;
  dimensions: number;
}

export interface VectorRow {
  documentId: string;
  /** The version of the document. */
  searchNumber: number;
  firstOrdinal: number;
  chunkCount: number;
  hashes: Buffer;
  vectors: Buffer;
}

interface DocumentToEmbed {
  id: string;
  path: string;
  searchNumber: number;
}

interface ChunkToEmbed {
  ordinal: number;
  heading: string;
  content: string;
}

export async function findEmbeddingModel(db: Kysely<Database>, name: string): Promise<EmbeddingModel | undefined> {
  return db
    .selectFrom('embedding_models')
    .select(['id', 'name', 'dimensions'])
    .where('name', '=', name)
    .executeTakeFirst();
}

/** The model of that name, made if need be; its dimensions stay those it was made with. */
export async function upsertEmbeddingModel(
  db: Kysely<Database>,
  model: Omit<EmbeddingModel, 'id'>,
): Promise<EmbeddingModel> {
  await db
    .insertInto('embedding_models')
    .values(model)
    .onConflict((oc) => oc.column('name').doNothing())
    .execute();
  return (await findEmbeddingModel(db, model.name)) as EmbeddingModel;
}

/** Documents whose present version lacks vectors of the model, by path. */
export async function findDocumentsToEmbed(
  db: Kysely<Database>,
  collectionId: string,
  modelId: number | undefined,
  { after, limit }: { after: string | undefined; limit: number },
): Promise<DocumentToEmbed[]> {
  const { rows } = await sql<DocumentToEmbed>`
    select d.id, d.path, d.search_number as "searchNumber"
    from oncefleet.documents d
    where d.collection_id = ${collectionId} ${after === undefined ? sql`` : sql`and d.path > ${after}`}
      and d.chunk_count > ${covered(modelId)}
    order by d.path limit ${limit}`.execute(db);
  return rows;
}

/** How many chunks of the collection lack vectors of the model. */
export async function countChunksToEmbed(
  db: Kysely<Database>,
  collectionId: string,
  modelId: number | undefined,
): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select coalesce(sum(greatest(0, d.chunk_count - ${covered(modelId)})), 0)::bigint as count
    from oncefleet.documents d where d.collection_id = ${collectionId}`.execute(db);
  return rows[0]?.count ?? 0;
}

/** Chunks of the present version of a document `d` that have vectors. */
function covered(modelId: number | undefined) {
  return sql`(
    select coalesce(sum(v.chunk_count), 0) from oncefleet.chunk_vectors v
    where v.document_id = d.id and v.model_id = ${modelId ?? null}::integer and v.search_number = d.search_number
  )`;
}

/** The document's chunks without a vector, in their order: nothing where another version has taken its place. */
export async function findChunksToEmbed(
  db: Kysely<Database>,
  document: { id: string; searchNumber: number },
  modelId: number | undefined,
  { from, limit }: { from: number; limit: number },
): Promise<ChunkToEmbed[]> {
  const { rows } = await sql<ChunkToEmbed>`
    select c.ordinal, c.heading, c.content
    from oncefleet.documents d join oncefleet.chunks c on c.document_id = d.id
    where d.id = ${document.id} and d.search_number = ${document.searchNumber} and c.ordinal >= ${from}
      and not exists (
        select from oncefleet.chunk_vectors v
        where v.document_id = d.id and v.model_id = ${modelId ?? null}::integer and v.search_number = d.search_number
          and c.ordinal >= v.first_ordinal and c.ordinal < v.first_ordinal + v.chunk_count
      )
    order by c.ordinal limit ${limit}`.execute(db);
  return rows;
}

/** Vectors of versions of the document before this one. */
export async function findEarlierVectors(
  db: Kysely<Database>,
  document: { id: string; searchNumber: number },
  modelId: number,
): Promise<Pick<VectorRow, 'hashes' | 'vectors'>[]> {
  return db
    .selectFrom('chunk_vectors')
    .select(['hashes', 'vectors'])
    .where('document_id', '=', document.id)
    .where('model_id', '=', modelId)
    .where('search_number', '<>', document.searchNumber)
    .execute();
}

/** Writes vectors of documents that are still of that version; of others, nothing. */
export async function insertVectors(
  trx: Transaction<Database>,
  collectionId: string,
  modelId: number,
  rows: readonly VectorRow[],
): Promise<void> {
  if (rows.length === 0) return;
  // Before the documents: a delete of the collection locks it first.
  await sql`select from oncefleet.collections where id = ${collectionId} for key share`.execute(trx);
  await sql`
    with given as (
      select * from unnest(
        ${rows.map(({ documentId }) => documentId)}::uuid[], ${rows.map(({ searchNumber }) => searchNumber)}::bigint[],
        ${rows.map(({ firstOrdinal }) => firstOrdinal)}::integer[], ${rows.map(({ chunkCount }) => chunkCount)}::integer[],
        ${rows.map(({ hashes }) => hashes)}::bytea[], ${rows.map(({ vectors }) => vectors)}::bytea[]
      ) as g (document_id, search_number, first_ordinal, chunk_count, hashes, vectors)
    ), present as (
      select id, search_number from oncefleet.documents
      where collection_id = ${collectionId} and id in (select document_id from given)
      order by path collate "C" for share
    )
    insert into oncefleet.chunk_vectors
      (document_id, model_id, search_number, first_ordinal, chunk_count, collection_id, hashes, vectors)
    select g.document_id, ${modelId}, g.search_number, g.first_ordinal, g.chunk_count, ${collectionId}::uuid, g.hashes, g.vectors
    from given g join present d on d.id = g.document_id and d.search_number = g.search_number
    on conflict do nothing`.execute(trx);
}

/** Takes away vectors of earlier versions of these documents. */
export async function deleteEarlierVectors(trx: Transaction<Database>, documentIds: readonly string[]): Promise<void> {
  if (documentIds.length === 0) return;
  await sql`
    delete from oncefleet.chunk_vectors v using oncefleet.documents d
    where d.id = any(${[...documentIds]}::uuid[]) and v.document_id = d.id and v.search_number <> d.search_number`.execute(
    trx,
  );
}

/** Takes away the collection's vectors of other models, of at most so many rows. @returns how many rows it were */
export async function deleteOtherModels(
  trx: Transaction<Database>,
  collectionId: string,
  modelId: number,
  limit: number,
): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from oncefleet.chunk_vectors where ctid = any(array(
      select ctid from oncefleet.chunk_vectors
      where collection_id = ${collectionId} and model_id <> ${modelId} limit ${limit}
    ))`.execute(trx);
  return Number(numAffectedRows ?? 0);
}

/** Bytes of the collection's vectors of this model. */
export async function measureVectors(db: Kysely<Database>, collectionId: string, modelId: number): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    select coalesce(sum(octet_length(vectors)), 0)::bigint as bytes
    from oncefleet.chunk_vectors where collection_id = ${collectionId} and model_id = ${modelId}`.execute(db);
  return rows[0]?.bytes ?? 0;
}

/** Where a page of `readVectors` ends. */
type VectorPlace = Pick<VectorRow, 'documentId' | 'firstOrdinal'>;

/** The next vectors of present versions, by document. @param only of these documents */
export async function readVectors(
  db: Kysely<Database>,
  search: {
    collectionId: string;
    modelId: number;
    only?: readonly string[] | undefined;
    after: VectorPlace | undefined;
    limit: number;
  },
): Promise<(VectorPlace & Pick<VectorRow, 'searchNumber' | 'vectors'>)[]> {
  const { collectionId, modelId, only, after, limit } = search;
  const { rows } = await sql<VectorPlace & Pick<VectorRow, 'searchNumber' | 'vectors'>>`
    select v.document_id as "documentId", v.first_ordinal as "firstOrdinal", v.search_number as "searchNumber", v.vectors
    from oncefleet.chunk_vectors v
    join oncefleet.documents d on d.id = v.document_id and d.search_number = v.search_number
    where v.collection_id = ${collectionId} and v.model_id = ${modelId}
      ${only === undefined ? sql`` : sql`and v.document_id = any(${[...only]}::uuid[])`}
      ${after === undefined ? sql`` : sql`and (v.document_id, v.first_ordinal) > (${after.documentId}::uuid, ${after.firstOrdinal}::integer)`}
    order by v.document_id, v.first_ordinal limit ${limit}`.execute(db);
  return rows;
}
