/**
 * Collections of documents with their full-text index, and conversations.
 *
 * New tables only, so no locks on anything in use and no backfill. Needs no extension:
 * gen_random_uuid() is in core since 13, generated columns since 12.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table collections (
      id uuid primary key default gen_random_uuid(),
      tenant text not null,
      name text not null,
      created_at timestamptz not null default clock_timestamp(),
      unique (tenant, name)
    )`.execute(db);

  await sql`
    create table documents (
      id uuid primary key default gen_random_uuid(),
      collection_id uuid not null references collections (id) on delete cascade,
      path text not null,
      title text not null,
      -- SHA-256 of the content, hexadecimal.
      content_hash text not null,
      -- Another chunker makes other chunks of the same content.
      chunker_version integer not null,
      byte_length integer not null,
      chunk_count integer not null,
      -- 1 when added, +1 on every change.
      revision integer not null default 1,
      -- The job that wrote this revision: a resumed attempt tells its own work from work found done.
      job_id uuid not null,
      updated_at timestamptz not null default clock_timestamp(),
      unique (collection_id, path)
    )`.execute(db);

  // The default parser takes "pino.destination" for a host and "docs/api.md" for a file, one
  // lexeme each, so a search for "destination" would miss them: their joints become spaces.
  // The query side does the same (src/db/chunks.ts).
  await sql`
    create table chunks (
      document_id uuid not null references documents (id) on delete cascade,
      ordinal integer not null,
      heading text not null,
      content text not null,
      search tsvector not null generated always as (
        setweight(to_tsvector('english', translate(heading, './_:-', '     ')), 'A') ||
        setweight(to_tsvector('english', translate(content, './_:-', '     ')), 'B')
      ) stored,
      primary key (document_id, ordinal)
    )`.execute(db);
  await sql`create index chunks_search on chunks using gin (search)`.execute(db);

  // The tenant is part of the key: an id that another tenant uses says nothing about it.
  await sql`
    create table conversations (
      tenant text not null,
      id uuid not null,
      created_at timestamptz not null default clock_timestamp(),
      primary key (tenant, id)
    )`.execute(db);
  await sql`
    create table messages (
      id bigint generated always as identity primary key,
      tenant text not null,
      conversation_id uuid not null,
      role text not null check (role in ('user', 'assistant')),
      content text not null,
      job_id uuid not null,
      created_at timestamptz not null default clock_timestamp(),
      foreign key (tenant, conversation_id) references conversations (tenant, id) on delete cascade,
      -- However often a job's end is tried, its question and its answer are there once.
      unique (job_id, role)
    )`.execute(db);
  await sql`create index messages_newest on messages (tenant, conversation_id, id desc)`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  for (const table of ['messages', 'conversations', 'chunks', 'documents', 'collections']) {
    await db.schema.dropTable(table).execute();
  }
}
