/**
 * Embeddings of chunks, where a model for them is configured.
 *
 * New tables only, so no locks on anything in use and no backfill: chunks get their vectors from the next ingest into
 * their collection, and are found by their words as before.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  embedding_models: {
    '': 'models whose vectors are stored',
    id: 'surrogate key',
    name: 'as it is configured',
    dimensions: 'numbers in each of its vectors',
  },
  chunk_vectors: {
    '': 'vectors of consecutive chunks of a document, of one model',
    document_id: 'of documents',
    model_id: 'of embedding_models',
    search_number: 'the version of the document; vectors of an earlier one serve no search',
    first_ordinal: 'the first chunk',
    chunk_count: 'how many chunks',
    collection_id: 'of collections',
    hashes: 'of each chunk, 16 bytes of the SHA-256 of what was embedded',
    vectors: 'of each chunk, a signed byte for each dimension',
  },
  embedding_turns: {
    '': 'which job embeds the chunks of a collection: one at a time',
    collection_id: 'of collections',
    job_id: 'the job; another takes the turn once it does not run any more',
    taken_at: 'when it took the turn',
  },
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table embedding_models (
      id integer generated always as identity primary key,
      name text not null unique,
      dimensions integer not null
    )`.execute(db);
  await sql`
    create table chunk_vectors (
      document_id uuid not null references documents (id) on delete cascade,
      model_id integer not null references embedding_models (id),
      search_number bigint not null,
      first_ordinal integer not null,
      chunk_count integer not null,
      collection_id uuid not null references collections (id) on delete cascade,
      hashes bytea not null,
      vectors bytea not null,
      primary key (document_id, model_id, search_number, first_ordinal)
    )`.execute(db);
  await sql`create index chunk_vectors_of on chunk_vectors (collection_id, model_id, document_id, first_ordinal)`.execute(
    db,
  );
  // Bytes like these do not compress.
  await sql`alter table chunk_vectors alter column vectors set storage external`.execute(db);
  await sql`alter table chunk_vectors alter column hashes set storage external`.execute(db);
  await sql`
    create table embedding_turns (
      collection_id uuid primary key references collections (id) on delete cascade,
      job_id uuid not null,
      taken_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  for (const [table, comments] of Object.entries(COMMENTS)) {
    for (const [column, comment] of Object.entries(comments)) {
      if (column === '') await sql`comment on table ${sql.ref(table)} is ${sql.lit(comment)}`.execute(db);
      else await sql`comment on column ${sql.ref(`${table}.${column}`)} is ${sql.lit(comment)}`.execute(db);
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  for (const table of ['embedding_turns', 'chunk_vectors', 'embedding_models'])
    await db.schema.dropTable(table).execute();
}
