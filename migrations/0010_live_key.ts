/**
 * The key that live messages are sealed with: what anybody else publishes in Redis is not shown to readers.
 *
 * A new table of one row, so no locks on anything in use and no backfill. The first process that needs the key makes it.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table live_key (
      singleton boolean primary key default true check (singleton),
      secret bytea not null check (length(secret) >= 32),
      created_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`comment on table live_key is 'the key that live messages in Redis are sealed with; one row'`.execute(db);
  for (const [column, comment] of [
    ['singleton', 'there is one key'],
    [
      'secret',
      'random bytes; deleted, the next process makes others, and those that run read the journal until they restart',
    ],
    ['created_at', 'when it was made'],
  ])
    await sql`comment on column ${sql.ref(`live_key.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('live_key').execute();
}
