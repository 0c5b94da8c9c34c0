/**
 * What searches read of jobs that failed or were cancelled: a narrow table beside `jobs`, kept by triggers.
 *
 * Not partial indexes of `jobs`: with the status in the condition of an index, every claim and every outcome would
 * write to all indexes of the table. The triggers' conditions are false for a job that runs and completes, and they work
 * for whatever writes the row, earlier builds included. Their function has the rights of the role that migrates: roles
 * that were given theirs before this table was there can go on ending jobs.
 *
 * The table is filled while writers of `jobs` wait: one read of `jobs`, about a second for a million rows.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  job_id: 'a job that failed or was cancelled; a redrive takes it out',
  tenant: 'as in jobs',
  name: 'as in jobs',
  queue: 'as in jobs',
  status: 'failed or cancelled',
  code: 'the code of its error, as it stands in the JSON text, at most 200 characters',
  words: 'the words of the message of its error, of its first 4,000 characters; signs part words',
};

// As text: an error with \u0000 in it cannot be taken apart by json operators.
const CODE = String.raw`left(substring(error::text from '^\s*\{\s*"code"\s*:\s*"((?:[^"\\]|\\.)*)"'), 200)`;
// Without signs: of a URL or a path each part is a word.
const WORDS = String.raw`to_tsvector('pg_catalog.simple', left(regexp_replace(
  coalesce(substring(left(error::text, 8000) from '"message"\s*:\s*"((?:[^"\\]|\\.)*)'), ''),
  '\\(u[0-9a-fA-F]{4}|.)|[!-/:-@\[-\`{-~]', ' ', 'g'), 4000))`.replaceAll('\\`', '`');

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  // Backslashes of the patterns below stand for themselves, whatever the database has set.
  await sql`set local standard_conforming_strings = on`.execute(db);
  await sql`
    create table failed_jobs (
      job_id uuid primary key,
      tenant text not null,
      name text not null,
      queue text not null,
      status text not null,
      code text,
      words tsvector not null
    )`.execute(db);
  // Dynamic, for the tables may be moved to another schema.
  await sql`
    create function note_failed_job() returns trigger language plpgsql
    security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
    begin
      if tg_op <> 'INSERT' then
        execute format('delete from %I.failed_jobs where job_id = $1', tg_table_schema) using old.id;
      end if;
      if tg_op <> 'DELETE' then
        if new.status in ('failed', 'cancelled') then
          execute format($f$
            insert into %I.failed_jobs (job_id, tenant, name, queue, status, code, words)
            select $1, $2, $3, $4, $5, ${sql.raw(CODE.replaceAll('error', '$6'))},
              ${sql.raw(WORDS.replaceAll('error', '$6'))}
            on conflict (job_id) do nothing$f$, tg_table_schema)
          using new.id, new.tenant, new.name, new.queue, new.status, new.error;
        end if;
      end if;
      return null;
    end $$`.execute(db);
  await sql`
    create trigger jobs_failed after update of status on jobs for each row
    when (old.status is distinct from new.status
      and (old.status in ('failed', 'cancelled') or new.status in ('failed', 'cancelled')))
    execute function note_failed_job()`.execute(db);
  await sql`
    create trigger jobs_failed_at_once after insert on jobs for each row
    when (new.status in ('failed', 'cancelled')) execute function note_failed_job()`.execute(db);
  await sql`
    create trigger jobs_failed_removed after delete on jobs for each row
    when (old.status in ('failed', 'cancelled')) execute function note_failed_job()`.execute(db);
  await sql`
    insert into failed_jobs (job_id, tenant, name, queue, status, code, words)
    select id, tenant, name, queue, status, ${sql.raw(CODE)}, ${sql.raw(WORDS)} from jobs
    where status in ('failed', 'cancelled')`.execute(db);
  await sql`create index failed_jobs_by_status on failed_jobs (status, job_id desc)`.execute(db);
  await sql`create index failed_jobs_by_tenant on failed_jobs (tenant, status, job_id desc)`.execute(db);
  await sql`create index failed_jobs_by_code on failed_jobs (code, job_id desc)`.execute(db);
  await sql`create index failed_jobs_by_tenant_code on failed_jobs (tenant, code, job_id desc)`.execute(db);
  await sql`create index failed_jobs_words on failed_jobs using gin (words)`.execute(db);
  await sql`comment on table failed_jobs is 'what searches read of jobs that failed or were cancelled; kept by triggers of jobs'`.execute(
    db,
  );
  for (const [column, comment] of Object.entries(COMMENTS))
    await sql`comment on column ${sql.ref(`failed_jobs.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  for (const name of ['jobs_failed', 'jobs_failed_at_once', 'jobs_failed_removed'])
    await sql`drop trigger ${sql.id(name)} on jobs`.execute(db);
  await sql`drop function note_failed_job()`.execute(db);
  await db.schema.dropTable('failed_jobs').execute();
}
