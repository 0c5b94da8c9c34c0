/**
 * What clients of OpenAI's and the AI SDK's APIs asked for, beside the job that answers it.
 *
 * A new table only, so no locks on anything in use and no backfill: jobs from before were asked for in no such way.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  '': 'requests of chat clients, one row for each job that answers one',
  job_id: 'the job that answers it',
  tenant: 'whose it is',
  api: 'responses, completions or ui: the API that it came by, and in whose words it is given back',
  thread: 'of ui: the id that the client gave its chat; null: none',
  request: 'JSON: the model, the messages and what else is given back',
  created_at: 'when it came',
  hidden_at: 'its client has deleted it: from then on it is not found',
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table chat_requests (
      job_id uuid primary key,
      tenant text not null,
      api text not null check (api in ('responses', 'completions', 'ui')),
      thread text,
      request json not null,
      created_at timestamptz not null default clock_timestamp(),
      hidden_at timestamptz
    )`.execute(db);
  // The newest job of a chat: ids of jobs are in the order in which they were made.
  await sql`create index chat_requests_of_thread on chat_requests (tenant, thread, job_id) where thread is not null`.execute(
    db,
  );
  for (const [column, comment] of Object.entries(COMMENTS)) {
    const on = column === '' ? sql`table chat_requests` : sql`column ${sql.ref(`chat_requests.${column}`)}`;
    await sql`comment on ${on} is ${sql.lit(comment)}`.execute(db);
  }
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('chat_requests').execute();
}
