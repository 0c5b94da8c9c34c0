/**
 * What is still to be given to BullMQ, and who looked after the fleet last.
 *
 * New tables only, so no locks on anything in use and no backfill.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  // Beside jobs, not a column of it: the rows that every claim and settlement updates stay narrow,
  // and an enqueue that reaches Redis at once writes nothing here.
  await sql`
    create table dispatch_outbox (
      -- No foreign key: the row is inserted with its job in one statement, and a check would cost a lock.
      job_id uuid primary key,
      created_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`
    create table reconciler_rounds (
      only_row boolean primary key default true check (only_row),
      finished_at timestamptz not null,
      worker text not null
    )`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('reconciler_rounds').execute();
  await db.schema.dropTable('dispatch_outbox').execute();
}
