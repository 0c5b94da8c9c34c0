/**
 * Poisoned jobs whose `onPoison` has not been seen to resolve.
 *
 * A new table only, so no locks on anything in use and no backfill: what was poisoned before it
 * had its one call.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table poison_alerts (
      -- No foreign key, as in dispatch_outbox. With the fence: a job that is redriven may be poisoned again.
      job_id uuid not null,
      fence bigint not null,
      -- What the hook is told. Beside the job, whose counters a redrive resets.
      tenant text not null,
      name text not null,
      queue text not null,
      crashes integer not null,
      -- How often somebody set out to call the hook.
      calls integer not null default 1,
      -- Until then whoever set out last has it to itself.
      due_at timestamptz not null,
      created_at timestamptz not null default clock_timestamp(),
      primary key (job_id, fence)
    )`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('poison_alerts').execute();
}
