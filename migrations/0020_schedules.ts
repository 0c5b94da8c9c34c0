/**
 * Schedules: jobs that are enqueued at times.
 *
 * A new table only, so no locks on anything in use and no backfill.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  '': 'schedules: each tick of one enqueues a job, in the transaction that moves next_at on',
  tenant: 'whose it is, and whose its jobs are',
  name: 'names it within its tenant',
  job_name: 'the job that a tick enqueues',
  cron: 'when it ticks, as cron writes it, without seconds; null: every_ms says so',
  time_zone: 'of cron: an IANA name',
  every_ms: 'how often it ticks, in milliseconds; null: cron says so',
  anchor_at: 'ticks of every_ms are whole intervals after it',
  start_at: 'no tick before it',
  end_at: 'no tick after it',
  input: 'of the jobs',
  priority: 'of the jobs, as BullMQ counts it',
  catch_up: 'which ticks that were missed are made up for: skip, one or all',
  overlap: 'skip: no tick while the job of the last one has not ended',
  next_at: 'the next tick; null: there is none',
  last_at: 'the last tick that made a job',
  last_job_id: 'the job it made',
  tick_count: 'ticks that made a job',
  skipped_count: 'ticks that made none: missed, or the job before had not ended',
  paused_at: 'since when it does not tick',
  created_at: 'when it was made',
  updated_at: 'when it was last changed by hand',
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table schedules (
      tenant text not null,
      name text not null,
      job_name text not null,
      cron text,
      time_zone text,
      every_ms bigint,
      anchor_at timestamptz not null,
      start_at timestamptz,
      end_at timestamptz,
      input json not null,
      priority integer not null,
      catch_up text not null check (catch_up in ('skip', 'one', 'all')),
      overlap text not null check (overlap in ('allow', 'skip')),
      next_at timestamptz,
      last_at timestamptz,
      last_job_id uuid,
      tick_count bigint not null default 0,
      skipped_count bigint not null default 0,
      paused_at timestamptz,
      created_at timestamptz not null default clock_timestamp(),
      updated_at timestamptz not null default clock_timestamp(),
      primary key (tenant, name),
      check ((cron is null) <> (every_ms is null)),
      check ((cron is null) = (time_zone is null))
    )`.execute(db);
  await sql`create index schedules_due on schedules (next_at) where next_at is not null and paused_at is null`.execute(
    db,
  );
  for (const [column, comment] of Object.entries(COMMENTS)) {
    const on = column === '' ? sql`table schedules` : sql`column ${sql.ref(`schedules.${column}`)}`;
    await sql`comment on ${on} is ${sql.lit(comment)}`.execute(db);
  }
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('schedules').execute();
}
