/**
 * An index for searches by queue. A claim and an outcome change none of its columns, so they still touch no index.
 *
 * It is made while writers are kept out, which takes about a second for a million rows. For a table that is too large
 * for that, make it before the release: `create index concurrently if not exists` with the same name and
 * columns; this file then finds it.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`create index if not exists jobs_by_queue on jobs (tenant, queue, id desc)`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`drop index jobs_by_queue`.execute(db);
}
