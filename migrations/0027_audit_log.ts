/**
 * What people have done in the console.
 *
 * A new table only, so no locks on anything in use and no backfill.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  id: 'in the order in which they began',
  at: 'when it was asked for',
  actor: 'who: the name of the token that logged in',
  session_id: 'the session in api_tokens; null where no login is needed',
  tenant: 'whose jobs it was about; null: those of all tenants',
  action: 'cancel, redrive, redrive-many, enqueue, upload, login, logout',
  job_id: 'the job, where it was one',
  details: 'what was asked for, without inputs of jobs',
  outcome: 'what came of it; null: it was not finished, as when its process died',
};

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table audit_log (
      id bigint generated always as identity primary key,
      at timestamptz not null default clock_timestamp(),
      actor text not null,
      session_id uuid,
      tenant text,
      action text not null,
      job_id uuid,
      details json not null,
      outcome text
    )`.execute(db);
  await sql`create index audit_log_by_job on audit_log (job_id, id desc) where job_id is not null`.execute(db);
  await sql`comment on table audit_log is 'what people have done in the console'`.execute(db);
  for (const [column, comment] of Object.entries(COMMENTS))
    await sql`comment on column ${sql.ref(`audit_log.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('audit_log').execute();
}
