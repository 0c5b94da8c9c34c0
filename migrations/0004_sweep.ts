/**
 * What the sweep needs: which finished streams to fold, and how long each tenant's jobs are kept.
 *
 * The new columns of stream_heads are null until somebody sets them, so adding them rewrites
 * nothing and an append writes no byte more; the tables are new. `alter table` waits for
 * statements in flight on stream_heads and journal_segments and is then done at once. No
 * backfill: what finished before it is read as it is and swept by its age.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    alter table stream_heads
      -- Finished, and long enough that a reader gains by fewer segments.
      add column fold_due boolean,
      -- The first seq that retention has left; null: all of them.
      add column kept_from bigint`.execute(db);
  // Holds only what waits to be folded. Appends change no column of it, so they stay heap-only.
  await sql`create index stream_heads_fold_due on stream_heads (stream_id) where fold_due`.execute(db);
  // Folding replaces many small rows by few large ones; the space should serve the next appends soon.
  await sql`
    alter table journal_segments set (
      autovacuum_vacuum_scale_factor = 0.05,
      toast.autovacuum_vacuum_scale_factor = 0.05
    )`.execute(db);

  await sql`
    create table tenant_policies (
      tenant text primary key,
      -- ms after the end of a job; null: the fleet's default; 'infinity': never.
      stream_retention_ms double precision check (stream_retention_ms > 0),
      job_retention_ms double precision check (job_retention_ms > 0),
      updated_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`
    create table retention_marks (
      tenant text not null,
      kind text not null check (kind in ('stream', 'job')),
      -- Jobs up to this id have been looked at: ids are in the order of their making.
      up_to uuid not null,
      primary key (tenant, kind)
    )`.execute(db);
  await sql`
    create table retention_later (
      kind text not null check (kind in ('stream', 'job')),
      -- Behind the mark, and not due when it went by: still running, delayed, or ended late.
      job_id uuid not null,
      look_at timestamptz not null,
      primary key (kind, job_id)
    )`.execute(db);
  await sql`create index retention_later_due on retention_later (kind, look_at)`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  for (const table of ['retention_later', 'retention_marks', 'tenant_policies'])
    await db.schema.dropTable(table).execute();
  await sql`
    alter table journal_segments reset (autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_scale_factor)`.execute(
    db,
  );
  await sql`alter table stream_heads drop column fold_due, drop column kept_from`.execute(db);
}
