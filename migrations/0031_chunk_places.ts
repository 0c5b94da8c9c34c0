/**
 * Where in its document a chunk stands.
 *
 * Three nullable columns of `chunks`: no rewrite. Chunks that are there have no place until their document is ingested again.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  start_offset: 'where it begins in the text of its document, in UTF-16 units; null: written before there were places',
  end_offset: 'where it ends there, exclusive',
  page: 'the page on which it begins, from 1; null: the format has no pages',
};

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    alter table chunks add column start_offset integer, add column end_offset integer, add column page integer`.execute(
    db,
  );
  for (const [column, comment] of Object.entries(COMMENTS))
    await sql`comment on column ${sql.ref(`chunks.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`alter table chunks drop column start_offset, drop column end_offset, drop column page`.execute(db);
}
