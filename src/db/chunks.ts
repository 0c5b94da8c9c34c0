/** Queries of `chunks`. The index that finds them is in search.ts. */
import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

const INSERT_BATCH = 500;

export interface FoundChunk {
  documentId: string;
  path: string;
  title: string;
  /** The language it was analysed in. */
  language: string;
  ordinal: number;
  heading: string;
  content: string;
  /** Of the document's text, in UTF-16 units, the end exclusive; null: an earlier build has written it. */
  start: number | null;
  end: number | null;
  /** On which it begins, from 1; null where there are no pages. */
  page: number | null;
}

interface ChunkToWrite {
  documentId: string;
  ordinal: number;
  heading: string;
  content: string;
  start: number;
  end: number;
  page?: number;
}

/** Writes chunks of documents that have none, or whose chunks `deleteChunks` has taken away. The caller holds the locks on their rows. */
export async function insertChunks(trx: Transaction<Database>, chunks: readonly ChunkToWrite[]): Promise<void> {
  for (let from = 0; from < chunks.length; from += INSERT_BATCH) {
    const batch = chunks.slice(from, from + INSERT_BATCH);
    await sql`
      insert into oncefleet.chunks (document_id, ordinal, heading, content, start_offset, end_offset, page)
      select document_id, ordinal, heading, content, start_offset, end_offset, page
      from unnest(
        ${batch.map(({ documentId }) => documentId)}::uuid[], ${batch.map(({ ordinal }) => ordinal)}::integer[],
        ${batch.map(({ heading }) => heading)}::text[], ${batch.map(({ content }) => content)}::text[],
        ${batch.map(({ start }) => start)}::integer[], ${batch.map(({ end }) => end)}::integer[],
        ${batch.map(({ page }) => page ?? null)}::integer[]
      ) as c (document_id, ordinal, heading, content, start_offset, end_offset, page)`.execute(trx);
  }
}

export async function deleteChunks(trx: Transaction<Database>, documentIds: readonly string[]): Promise<void> {
  if (documentIds.length === 0) return;
  await trx
    .deleteFrom('chunks')
    .where('document_id', '=', sql<string>`any(${sql.val([...documentIds])}::uuid[])`)
    .execute();
}

/** The chunks at these places, each `undefined` when it is not there any more. */
export async function findChunksAt(
  db: Kysely<Database>,
  collectionId: string,
  places: readonly { documentNumber: number; ordinal: number }[],
): Promise<(FoundChunk | undefined)[]> {
  const { rows } = await sql<FoundChunk & { place: number }>`
    select d.id as "documentId", d.path, d.title, d.language, c.ordinal, c.heading, c.content,
      c.start_offset as start, c.end_offset as "end", c.page, p.place::integer as place
    from unnest(
      ${places.map(({ documentNumber }) => documentNumber)}::bigint[], ${places.map(({ ordinal }) => ordinal)}::integer[]
    ) with ordinality as p (number, ordinal, place)
    join oncefleet.documents d on d.search_number = p.number and d.collection_id = ${collectionId}
    join oncefleet.chunks c on c.document_id = d.id and c.ordinal = p.ordinal`.execute(db);
  const found: (FoundChunk | undefined)[] = places.map(() => undefined);
  for (const { place, ...chunk } of rows) found[place - 1] = chunk;
  return found;
}

/**
 * The chunks that have most of these words as they are written. Reads the whole collection.
 *
 * @param limitMs after that time nothing is found
 */
export async function scanForWords(
  db: Kysely<Database>,
  search: { collectionId: string; words: readonly string[]; limit: number; limitMs: number },
): Promise<(FoundChunk & { score: number })[]> {
  const query = sql`(select array_to_string(array_agg(quote_literal(w)), ' | ') from unnest(${[...search.words]}::text[]) as w)::tsquery`;
  const vector = sql`to_tsvector('simple', translate(c.heading || ' ' || c.content, './_:-', '     '))`;
  return inTime(db, search.limitMs, [], async (trx) => {
    const { rows } = await sql<FoundChunk & { score: number }>`
      select d.id as "documentId", d.path, d.title, d.language, c.ordinal, c.heading, c.content,
        c.start_offset as start, c.end_offset as "end", c.page,
        ts_rank_cd(${vector}, ${query}, 1)::float8 as score
      from oncefleet.documents d join oncefleet.chunks c on c.document_id = d.id
      where d.collection_id = ${search.collectionId} and ${vector} @@ ${query}
      order by score desc, d.path, c.ordinal limit ${search.limit}`.execute(trx);
    return rows;
  });
}

/**
 * Which of these words occur nowhere in the collection's texts, not even inside another word, whatever their case
 * and width. Reads the whole collection.
 *
 * @param words folded: in normal form KC, lower case, with ss for ß
 * @param limitMs after that time no word counts as missing
 */
export async function findAbsentWords(
  db: Kysely<Database>,
  search: { collectionId: string; words: readonly string[]; limitMs: number },
): Promise<string[]> {
  return inTime(db, search.limitMs, [], async (trx) => {
    const { rows } = await sql<{ word: string }>`
      select word from unnest(${[...search.words]}::text[]) with ordinality as w (word, place)
      where not exists (
        select from oncefleet.documents d
        join oncefleet.chunks c on c.document_id = d.id
        cross join lateral (select ${folded(sql`c.heading || ' ' || c.content`)} as text) as f
        where d.collection_id = ${search.collectionId} and strpos(f.text, word) > 0
      )
      order by place`.execute(trx);
    return rows.map(({ word }) => word);
  });
}

/** ASCII text, as most is, is folded by the C locale, ten times as fast. Only a UTF-8 database can normalise. */
function folded(text: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`case
    when octet_length(${text}) = char_length(${text}) then lower((${text}) collate "C")
    when current_setting('server_encoding') = 'UTF8' then replace(lower(normalize(${text}, NFKC)), 'ß', 'ss')
    else lower(${text})
  end`;
}

/** `QUERY_CANCELED`: what a statement fails with that takes too long. */
const TOO_LONG = '57014';

async function inTime<T>(
  db: Kysely<Database>,
  limitMs: number,
  otherwise: T,
  read: (trx: Kysely<Database>) => Promise<T>,
): Promise<T> {
  try {
    return await db
      .transaction()
      .setAccessMode('read only')
      .execute(async (trx) => {
        await sql`select set_config('statement_timeout', ${String(limitMs)}, true)`.execute(trx);
        return read(trx);
      });
  } catch (error) {
    if ((error as { code?: string }).code === TOO_LONG) return otherwise;
    throw error;
  }
}
