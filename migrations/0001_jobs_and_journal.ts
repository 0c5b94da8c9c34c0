/**
 * The core: jobs, their attempts, and the journal.
 *
 * New tables only, so no locks on anything in use and no backfill. Every statement runs in
 * the one transaction Kysely's migrator opens.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table jobs (
      id uuid primary key,
      tenant text not null,
      name text not null,
      queue text not null,
      idempotency_key text,
      -- True once the key's outcome expired and the key went to a newer row.
      key_released boolean not null default false,
      fingerprint text not null,
      -- json, not jsonb: jsonb refuses \\u0000 and lone surrogates.
      input json not null,
      options json not null,
      status text not null default 'pending'
        check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
      fence bigint not null default 0,
      lease_owner text,
      lease_expires_at timestamptz,
      -- Who claimed it last, and when, for as long as that attempt stands in no other row.
      worker text,
      claimed_at timestamptz,
      crash_count integer not null default 0,
      error_count integer not null default 0,
      deferral_count integer not null default 0,
      interruption_count integer not null default 0,
      -- How the last attempt ended; says why the next one starts.
      last_outcome text,
      checkpoint json,
      -- Events with a seq at or past this one came after the checkpoint.
      checkpoint_seq bigint,
      result json,
      error json,
      -- BullMQ's attemptsMade of the delivery that failed; a later delivery with more was retried by a person.
      failed_at_delivery integer,
      run_at timestamptz not null default clock_timestamp(),
      created_at timestamptz not null default clock_timestamp(),
      started_at timestamptz,
      finished_at timestamptz,
      expires_at timestamptz,
      deadline_at timestamptz,
      cancel_requested_at timestamptz,
      check ((status = 'running') = (lease_owner is not null)),
      check ((status = 'running') = (lease_expires_at is not null)),
      check ((status in ('pending', 'running')) = (finished_at is null))
    -- Room beside each row for the one it becomes when it is claimed.
    ) with (fillfactor = 40)`.execute(db);
  await sql`
    create unique index jobs_key on jobs (tenant, name, idempotency_key) where not key_released`.execute(db);
  await sql`create index jobs_newest on jobs (tenant, id desc)`.execute(db);
  // What the reconciler looks after: small, however many jobs are kept. A table and no partial
  // indexes of jobs: no index of jobs tells what becomes of a job, so a claim and an outcome write
  // to none (heap-only updates). Measured: half the CPU time of Postgres, a third of its log.
  await sql`
    create table unfinished_jobs (
      -- No foreign key: the row is inserted with its job in one statement, and a check would cost a lock.
      job_id uuid primary key,
      run_at timestamptz not null,
      -- When it must have ended: at its deadline, or at once where a cancel was requested.
      end_by timestamptz
    )`.execute(db);
  await sql`create index unfinished_jobs_due on unfinished_jobs (run_at, job_id)`.execute(db);
  await sql`create index unfinished_jobs_end on unfinished_jobs (end_by) where end_by is not null`.execute(db);

  // An attempt is first a part of its job's row, and gets one of its own when the job goes on
  // without it: most jobs need one attempt, and a second row for it would cost a third more.
  await sql`
    create table ended_attempts (
      job_id uuid not null,
      fence bigint not null,
      worker text not null,
      started_at timestamptz not null,
      finished_at timestamptz not null default clock_timestamp(),
      outcome text not null,
      error json,
      primary key (job_id, fence)
    )`.execute(db);
  await sql`
    create view job_attempts as
      select job_id, fence, worker, split_part(worker, ':', 1) as host, started_at, finished_at, outcome, error
      from ended_attempts
      union all
      select id, fence, worker, split_part(worker, ':', 1), claimed_at, finished_at,
        case when finished_at is not null then last_outcome end, error
      from jobs where claimed_at is not null`.execute(db);

  await sql`
    create table stream_heads (
      stream_id uuid primary key,
      fence bigint not null,
      next_seq bigint not null,
      -- The stream's last progress event, for those who look at the job and not at the stream.
      progress json,
      state text not null default 'open' check (state in ('open', 'closed'))
    ) with (fillfactor = 70)`.execute(db);
  await sql`
    create table journal_segments (
      stream_id uuid not null,
      first_seq bigint not null,
      last_seq bigint not null,
      fence bigint not null,
      events json not null,
      created_at timestamptz not null default clock_timestamp(),
      primary key (stream_id, first_seq),
      check (last_seq >= first_seq)
    )`.execute(db);
  await sql`
    create view journal_events as
      select s.stream_id, s.first_seq + e.ordinality - 1 as seq, s.fence, e.event, s.created_at
      from journal_segments s
      cross join lateral json_array_elements(s.events) with ordinality as e (event, ordinality)`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await sql`drop view journal_events, job_attempts`.execute(db);
  for (const table of ['journal_segments', 'stream_heads', 'ended_attempts', 'unfinished_jobs', 'jobs']) {
    await db.schema.dropTable(table).execute();
  }
}
