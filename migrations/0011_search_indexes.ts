/**
 * Indexes for searches by key and by name. None has a column that a claim or an outcome changes, so those writes
 * still touch no index.
 *
 * Both are made while writers are kept out, which takes about two seconds for a million rows. For a table
 * that is too large for that, make them before the release: `create index concurrently if not exists` with the same
 * names and columns; this file then finds them.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create index if not exists jobs_by_key on jobs (tenant, idempotency_key, id desc) where idempotency_key is not null`.execute(
    db,
  );
  await sql`create index if not exists jobs_by_name on jobs (tenant, name, id desc)`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`drop index jobs_by_key, jobs_by_name`.execute(db);
}
