/**
 * Jobs that other BullMQ clients added: where their deliveries come from, and a scope of their own for keys.
 *
 * `add column` with a constant default rewrites nothing. Both indexes read the table once and keep
 * writers out meanwhile, which takes about a second for a million rows.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    alter table jobs
      -- Empty for jobs of the fleet: their name has one queue. Else '<prefix>:<queue>'.
      add column key_scope text not null default '',
      -- prefix, queue, id, timestamp and options of the BullMQ job that delivers it; null where that is the fleet's own.
      add column source json,
      -- Names that BullMQ job for good; a redelivery finds its row by it, whatever has become of its data.
      add column source_ref text`.execute(db);
  await sql`alter table jobs rename column failed_at_delivery to ended_at_delivery`.execute(db);
  await sql`drop index jobs_key`.execute(db);
  await sql`
    create unique index jobs_key on jobs (tenant, name, idempotency_key, key_scope) where not key_released`.execute(db);
  // A hash: ids of BullMQ jobs may be longer than a b-tree takes.
  await sql`create index jobs_source on jobs using hash (source_ref) where source_ref is not null`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`drop index jobs_source, jobs_key`.execute(db);
  await sql`alter table jobs rename column ended_at_delivery to failed_at_delivery`.execute(db);
  await sql`alter table jobs drop column source_ref, drop column source, drop column key_scope`.execute(db);
  await sql`create unique index jobs_key on jobs (tenant, name, idempotency_key) where not key_released`.execute(db);
}
