/**
 * Documents as they were sent, until the job that ingests them has ended.
 *
 * New tables only, so no locks on anything in use and no backfill.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  uploads: {
    '': 'documents that were sent and wait for their job, one row each',
    id: 'a UUID of version 7',
    tenant: 'whose it is',
    path: 'what it is to be called in its collection',
    content_type: 'as it was sent; null: nothing was said',
    byte_length: 'how much of it is stored',
    sha256: 'of all of it, hexadecimal; null: it is not stored to its end yet',
    job_id: 'the job that ingests it; null: not enqueued yet',
    created_at: 'when it began to arrive',
    touched_at: 'when the last part of it arrived; a row that is not enqueued an hour later is removed',
  },
  upload_parts: {
    '': 'the bytes of uploads, in rows that can be read one by one',
    upload_id: 'of uploads',
    ordinal: 'their order, from 0',
    bytes: 'at most 512 KiB',
  },
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table uploads (
      id uuid primary key,
      tenant text not null,
      path text not null,
      content_type text,
      byte_length bigint not null default 0,
      sha256 text,
      job_id uuid,
      created_at timestamptz not null default clock_timestamp(),
      touched_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`create index uploads_of_job on uploads (job_id)`.execute(db);
  await sql`create index uploads_of_tenant on uploads (tenant)`.execute(db);
  await sql`
    create table upload_parts (
      upload_id uuid not null references uploads (id) on delete cascade,
      ordinal integer not null,
      bytes bytea not null,
      primary key (upload_id, ordinal)
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
  await db.schema.dropTable('upload_parts').execute();
  await db.schema.dropTable('uploads').execute();
}
