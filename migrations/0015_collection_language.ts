/**
 * The language of a collection's documents, where it is not to be detected.
 *
 * Two nullable columns of `collections`: no rewrite, and no backfill, for each document's language is detected as before.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  language: 'the language its documents are analysed in; null: each in its own, which is detected',
  language_since: 'when it was last changed; documents written before are analysed anew by their next ingest',
};

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`alter table collections add column language text, add column language_since timestamptz`.execute(db);
  for (const [column, comment] of Object.entries(COMMENTS))
    await sql`comment on column ${sql.ref(`collections.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`alter table collections drop column language, drop column language_since`.execute(db);
}
