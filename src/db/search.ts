/**
 * Queries of the search index: `search_parts`, their blocks, and `search_removals`. What the bytes mean is known in
 * src/search.
 *
 * A part never changes. Writers add parts and removals, and put several parts into one; a reader that reads in one
 * snapshot therefore sees each chunk once.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

export interface PartRow {
  id: number;
  documentCount: number;
  chunkCount: number;
  /** Of all of its chunks, removed ones included, in words. */
  wordCount: number;
  languages: string[];
  /** Its documents, encoded. */
  documents: Buffer;
}

export interface BlockRow {
  firstTerm: Buffer;
  lastTerm: Buffer;
  place: number;
  data: Buffer;
}

/** Text for `to_tsvector`. */
interface TextToAnalyse {
  /** Name of a text search configuration. */
  configuration: string;
  heading: string;
  content: string;
}

/** Each text's tsvector as text; the heading's words have weight A, the content's none. */
export async function makeVectors(db: Kysely<Database>, texts: readonly TextToAnalyse[]): Promise<string[]> {
  if (texts.length === 0) return [];
  const { rows } = await sql<{ vector: string }>`
    select (setweight(to_tsvector(configuration::regconfig, translate(heading, './_:-', '     ')), 'A') ||
      to_tsvector(configuration::regconfig, translate(content, './_:-', '     ')))::text as vector
    from unnest(
      ${texts.map(({ configuration }) => configuration)}::text[],
      ${texts.map(({ heading }) => heading)}::text[],
      ${texts.map(({ content }) => content)}::text[]
    ) with ordinality as t (configuration, heading, content, place)
    order by place`.execute(db);
  return rows.map(({ vector }) => vector);
}

/** All parts of a collection, oldest first. */
export async function findParts(db: Kysely<Database>, collectionId: string): Promise<PartRow[]> {
  const { rows } = await sql<PartRow>`
    select id, document_count as "documentCount", chunk_count as "chunkCount", word_count as "wordCount", languages, documents
    from oncefleet.search_parts where collection_id = ${collectionId} order by id`.execute(db);
  return rows;
}

export interface PartSize {
  id: number;
  documentCount: number;
  chunkCount: number;
}

/** The same without their bytes, and how many documents of them have been removed since. */
export async function findPartSizes(
  db: Kysely<Database>,
  collectionId: string,
): Promise<{ parts: PartSize[]; removals: number }> {
  const { rows } = await sql<PartSize>`
    select id, document_count as "documentCount", chunk_count as "chunkCount"
    from oncefleet.search_parts where collection_id = ${collectionId} order by id`.execute(db);
  const counted = await sql<{ count: number }>`
    select count(*) as count from oncefleet.search_removals where collection_id = ${collectionId}`.execute(db);
  return { parts: rows, removals: counted.rows[0]?.count ?? 0 };
}

/** Numbers of documents that parts of the collection still have. */
export async function findRemovals(db: Kysely<Database>, collectionId: string): Promise<number[]> {
  const { rows } = await sql<{ number: number }>`
    select search_number as number from oncefleet.search_removals where collection_id = ${collectionId}`.execute(db);
  return rows.map(({ number }) => number);
}

interface FoundBlock {
  partId: number;
  /** Index of the term that was asked for. */
  term: number;
  data: Buffer;
}

/** Every block of these parts that may have one of these terms; blocks of one term in their order. */
export async function findBlocks(
  db: Kysely<Database>,
  partIds: readonly number[],
  terms: readonly Buffer[],
): Promise<FoundBlock[]> {
  const { rows } = await sql<FoundBlock>`
    select b.part_id as "partId", t.place::integer - 1 as term, b.data
    from unnest(${[...terms]}::bytea[]) with ordinality as t (term, place)
    cross join unnest(${[...partIds]}::bigint[]) as p (id)
    cross join lateral (
      select first_term from oncefleet.search_blocks
      where part_id = p.id and first_term <= t.term order by first_term desc limit 1
    ) as found
    join oncefleet.search_blocks b
      on b.part_id = p.id and b.first_term = found.first_term and b.last_term >= t.term
    order by t.place, b.part_id, b.place`.execute(db);
  return rows;
}

/** Terms from one up to another, which is not among them. */
export interface TermRange {
  from: Buffer;
  to: Buffer;
  /** Blocks of this term alone are left out. */
  except: Buffer;
}

interface FoundRangeBlock {
  partId: number;
  /** Index of the range that was asked for. */
  range: number;
  data: Buffer;
}

/**
 * Every block of these parts that may have a term of one of these ranges. None of a range that has more than `most`: they
 * are counted in the index, before any is read.
 */
export async function findRanges(
  db: Kysely<Database>,
  partIds: readonly number[],
  ranges: readonly TermRange[],
  most: number,
): Promise<FoundRangeBlock[]> {
  const { rows } = await sql<FoundRangeBlock>`
    with r as (
      select * from unnest(
        ${ranges.map(({ from }) => from)}::bytea[], ${ranges.map(({ to }) => to)}::bytea[],
        ${ranges.map(({ except }) => except)}::bytea[]
      ) with ordinality as r (low, high, own, place)
    ), bounds as (
      select r.*, p.id as part_id, coalesce((
        select first_term from oncefleet.search_blocks where part_id = p.id and first_term <= r.low
        order by first_term desc limit 1
      ), r.low) as least
      from r cross join unnest(${[...partIds]}::bigint[]) as p (id)
    ), counted as (
      select bounds.place, sum(blocks.count) as count
      from bounds cross join lateral (
        select count(*) from (
          select from oncefleet.search_blocks b
          where b.part_id = bounds.part_id and b.first_term >= bounds.least and b.first_term < bounds.high
            and b.first_term <> bounds.own
          limit ${most + 1}
        ) as few
      ) as blocks
      group by bounds.place
    )
    select bounds.part_id as "partId", bounds.place::integer - 1 as range, found.data
    from counted join bounds using (place)
    -- The limit is there to have each range read by the index.
    cross join lateral (
      select b.data from oncefleet.search_blocks b
      where b.part_id = bounds.part_id and b.first_term >= bounds.least and b.first_term < bounds.high
        and b.last_term >= bounds.low and not (b.first_term = bounds.own and b.last_term = bounds.own)
      order by b.first_term, b.place limit ${most + 2}
    ) as found
    where counted.count <= ${most}
    order by bounds.place, bounds.part_id`.execute(db);
  return rows;
}

/** How many bytes `findBlocks` would give for each term. */
export async function measureTerms(
  db: Kysely<Database>,
  partIds: readonly number[],
  terms: readonly Buffer[],
): Promise<number[]> {
  const { rows } = await sql<{ bytes: number }>`
    select coalesce(sum(octet_length(b.data)), 0) as bytes
    from unnest(${[...terms]}::bytea[]) with ordinality as t (term, place)
    cross join unnest(${[...partIds]}::bigint[]) as p (id)
    cross join lateral (
      select first_term from oncefleet.search_blocks
      where part_id = p.id and first_term <= t.term order by first_term desc limit 1
    ) as found
    left join oncefleet.search_blocks b
      on b.part_id = p.id and b.first_term = found.first_term and b.last_term >= t.term
    group by t.place order by t.place`.execute(db);
  return rows.map(({ bytes }) => Number(bytes));
}

/** The next blocks of a part, by term. */
export async function readBlocks(
  db: Kysely<Database>,
  partId: number,
  after: Pick<BlockRow, 'firstTerm' | 'place'> | undefined,
  limit: number,
): Promise<BlockRow[]> {
  const { rows } = await sql<BlockRow>`
    select first_term as "firstTerm", last_term as "lastTerm", place, data
    from oncefleet.search_blocks
    where part_id = ${partId} and (first_term, place) > (${after?.firstTerm ?? Buffer.alloc(0)}::bytea, ${after?.place ?? -1}::integer)
    order by first_term, place limit ${limit}`.execute(db);
  return rows;
}

export async function insertPart(
  trx: Transaction<Database>,
  collectionId: string,
  part: Omit<PartRow, 'id'>,
): Promise<number> {
  const { rows } = await sql<{ id: number }>`
    insert into oncefleet.search_parts (collection_id, document_count, chunk_count, word_count, languages, documents)
    values (${collectionId}, ${part.documentCount}, ${part.chunkCount}, ${part.wordCount}, ${[...part.languages]}::text[], ${part.documents})
    returning id`.execute(trx);
  return (rows[0] as { id: number }).id;
}

export async function insertBlocks(
  trx: Transaction<Database>,
  partId: number,
  blocks: readonly BlockRow[],
): Promise<void> {
  if (blocks.length === 0) return;
  await sql`
    insert into oncefleet.search_blocks (part_id, first_term, place, last_term, data)
    select ${partId}, first_term, place, last_term, data
    from unnest(
      ${blocks.map(({ firstTerm }) => firstTerm)}::bytea[], ${blocks.map(({ place }) => place)}::integer[],
      ${blocks.map(({ lastTerm }) => lastTerm)}::bytea[], ${blocks.map(({ data }) => data)}::bytea[]
    ) as b (first_term, place, last_term, data)`.execute(trx);
}

/**
 * Those of these parts that nobody else puts together, locked for the rest of the transaction.
 *
 * The collection's row is locked first: a delete of the collection does so too, and would otherwise wait for these
 * parts while this transaction waits for the collection.
 */
export async function lockParts(
  trx: Transaction<Database>,
  collectionId: string,
  ids: readonly number[],
): Promise<PartRow[]> {
  const collection = await sql`
    select from oncefleet.collections where id = ${collectionId} for key share`.execute(trx);
  if (collection.rows.length === 0) return [];
  const { rows } = await sql<PartRow>`
    select id, document_count as "documentCount", chunk_count as "chunkCount", word_count as "wordCount", languages, documents
    from oncefleet.search_parts where collection_id = ${collectionId} and id = any(${[...ids]}::bigint[])
    order by id for update skip locked`.execute(trx);
  return rows;
}

/** Takes away parts with their blocks, and the removals that only they needed. */
export async function deleteParts(
  trx: Transaction<Database>,
  collectionId: string,
  ids: readonly number[],
  removals: readonly number[],
): Promise<void> {
  await sql`delete from oncefleet.search_parts where id = any(${[...ids]}::bigint[])`.execute(trx);
  await sql`
    delete from oncefleet.search_removals
    where collection_id = ${collectionId} and search_number = any(${[...removals]}::bigint[])`.execute(trx);
}
