/**
 * A row that readiness checks write: a Postgres that answers may still refuse every write.
 *
 * A new table of one row, so no locks on anything in use and no backfill. The first check makes the row.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table write_probe (
      singleton boolean primary key default true check (singleton),
      written_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`comment on table write_probe is 'a row that readiness checks write, at most every two seconds a process'`.execute(
    db,
  );
  await sql`comment on column write_probe.singleton is 'there is one row'`.execute(db);
  await sql`comment on column write_probe.written_at is 'when a check last wrote it'`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('write_probe').execute();
}
