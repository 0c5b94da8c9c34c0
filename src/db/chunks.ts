/** Queries of `chunks`: writing them, and finding the best for a question. */
import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

/** Weights D, C, B, A of a tsvector: content is B, headings are A. */
const RANK_WEIGHTS = '{0.1, 0.2, 0.45, 1.0}';
const INSERT_BATCH = 500;

/** `simple` keeps the words that `english` drops ("not", "who"). */
export type SearchConfiguration = 'english' | 'simple';

/** A word of a question as the index knows it. */
export interface Lexeme {
  lexeme: string;
  /** Positions in the question, from 1; words that were dropped count. */
  positions: number[];
}

interface WeightedTerm {
  /** Text of a tsquery, from `quoteLexeme` or `phrase`. */
  query: string;
  weight: number;
}

export interface RankedChunk {
  documentId: string;
  path: string;
  title: string;
  ordinal: number;
  heading: string;
  content: string;
  score: number;
  /** Which of `terms` it has, as indexes. */
  matched: number[];
}

/** Replaces all chunks of a document. The caller holds the lock on its row. */
export async function replaceChunks(
  trx: Transaction<Database>,
  documentId: string,
  chunks: readonly { heading: string; content: string }[],
): Promise<void> {
  await trx.deleteFrom('chunks').where('document_id', '=', documentId).execute();
  for (let from = 0; from < chunks.length; from += INSERT_BATCH) {
    const batch = chunks.slice(from, from + INSERT_BATCH);
    await sql`
      insert into oncefleet.chunks (document_id, ordinal, heading, content)
      select ${documentId}::uuid, ${from}::integer + ordinality - 1, heading, content
      from unnest(${batch.map(({ heading }) => heading)}::text[], ${batch.map(({ content }) => content)}::text[])
        with ordinality as c (heading, content, ordinality)`.execute(trx);
  }
}

/** The lexemes of a question, in its order. */
export async function findQuestionLexemes(
  db: Kysely<Database>,
  question: string,
  configuration: SearchConfiguration,
): Promise<Lexeme[]> {
  const { rows } = await sql<Lexeme>`
    select lexeme, positions
    from unnest(to_tsvector(${configuration}::regconfig, ${searchText(sql`${question}::text`)}))
    order by positions[1]`.execute(db);
  return rows;
}

/** The distinct lexemes of each text, as `search` would hold them. */
export async function findLexemes(
  db: Kysely<Database>,
  texts: readonly string[],
  configuration: SearchConfiguration,
): Promise<string[][]> {
  if (texts.length === 0) return [];
  const { rows } = await sql<{ lexemes: string[] }>`
    select tsvector_to_array(to_tsvector(${configuration}::regconfig, ${searchText(sql`text`)})) as lexemes
    from unnest(${[...texts]}::text[]) with ordinality as t (text, n)
    order by n`.execute(db);
  return rows.map(({ lexemes }) => lexemes);
}

/** How many chunks the collection has, and how many of them match each query. */
export async function countMatches(
  db: Kysely<Database>,
  collectionId: string,
  queries: readonly string[],
  configuration: SearchConfiguration,
): Promise<{ total: number; matches: number[] }> {
  const { rows } = await sql<{ total: number; matches: number }>`
    select
      (select coalesce(sum(chunk_count), 0)::bigint from oncefleet.documents where collection_id = ${collectionId}) as total,
      (select count(*) from oncefleet.chunks c join oncefleet.documents d on d.id = c.document_id
        where d.collection_id = ${collectionId} and ${vector(configuration)} @@ q.query) as matches
    from unnest(${[...queries]}::tsquery[]) with ordinality as q (query, n)
    order by n`.execute(db);
  return { total: rows[0]?.total ?? 0, matches: rows.map(({ matches }) => matches) };
}

/**
 * The chunks that match `terms` best: the sum over terms of weight x rank of the term in the
 * chunk. Weights are inverse document frequencies, which ts_rank knows nothing of; ts_rank adds
 * heading weight, a saturating term frequency and a damping by length.
 *
 * `phrases` (neighbouring words of the question, in order) add their weight when they match.
 */
export async function findBestChunks(
  db: Kysely<Database>,
  search: {
    collectionId: string;
    terms: readonly WeightedTerm[];
    phrases: readonly WeightedTerm[];
    configuration: SearchConfiguration;
    limit: number;
  },
): Promise<RankedChunk[]> {
  const { terms, phrases } = search;
  const any = terms.map(({ query }) => query).join(' | ');
  const { rows } = await sql<RankedChunk>`
    select d.id as "documentId", d.path, d.title, c.ordinal, c.heading, c.content, rank.score, rank.matched
    from oncefleet.chunks c
    join oncefleet.documents d on d.id = c.document_id
    cross join lateral (
      select
        sum(t.weight * case when t.n > ${terms.length} then 1 else ts_rank(${RANK_WEIGHTS}::float4[], ${vector(search.configuration)}, t.query, 1) end) as score,
        coalesce(array_agg((t.n - 1)::integer order by t.n) filter (where t.n <= ${terms.length}), '{}') as matched
      from unnest(${[...terms, ...phrases].map(({ query }) => query)}::tsquery[], ${[...terms, ...phrases].map(({ weight }) => weight)}::float8[])
        with ordinality as t (query, weight, n)
      where ${vector(search.configuration)} @@ t.query
    ) rank
    where d.collection_id = ${search.collectionId} and ${vector(search.configuration)} @@ ${any}::tsquery
    order by rank.score desc, d.path, c.ordinal
    limit ${search.limit}`.execute(db);
  return rows;
}

/** A lexeme as text of a tsquery; any text is safe. */
export function quoteLexeme(lexeme: string): string {
  return `'${lexeme.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

/** Two lexemes, the second `distance` words after the first, as text of a tsquery. */
export function phrase(first: string, second: string, distance: number): string {
  return `(${quoteLexeme(first)} <${distance}> ${quoteLexeme(second)})`;
}

/** The indexed column, or the same text with every word kept; the latter has no index and reads the whole collection. */
function vector(configuration: SearchConfiguration): RawBuilder<unknown> {
  if (configuration === 'english') return sql`c.search`;
  return sql`(setweight(to_tsvector('simple', ${searchText(sql`c.heading`)}), 'A') || setweight(to_tsvector('simple', ${searchText(sql`c.content`)}), 'B'))`;
}

/** The same joints become spaces as in the generated column (migration 0002). */
function searchText(text: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`translate(${text}, './_:-', '     ')`;
}
