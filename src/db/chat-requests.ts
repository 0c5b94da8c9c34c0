/** Queries of `chat_requests`: what clients of chat APIs asked for, beside the job that answers it. */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

export type ChatApi = 'responses' | 'completions' | 'ui';

export interface ChatRequestRow {
  jobId: string;
  api: ChatApi;
  /** JSON text. */
  request: string;
  /** When it came, in ms since 1970. */
  createdAt: number;
}

interface NewChatRequest {
  jobId: string;
  tenant: string;
  api: ChatApi;
  thread: string | undefined;
  request: string;
}

/** The first request of a job stays: others under its key are compared with it. */
export async function insertChatRequest(db: Kysely<Database>, given: NewChatRequest): Promise<void> {
  const { jobId, tenant, api, thread = null, request } = given;
  await sql`
    insert into oncefleet.chat_requests (job_id, tenant, api, thread, request)
    values (${jobId}, ${tenant}, ${api}, ${thread}, ${request}::json)
    on conflict (job_id) do nothing`.execute(db);
}

const FIELDS = sql`job_id as "jobId", api, request::text as request, extract(epoch from created_at)::float8 * 1000 as "createdAt"`;

/** `undefined`: no such request in this tenant, or its client has deleted it. */
export async function findChatRequest(
  db: Kysely<Database>,
  tenant: string,
  jobId: string,
): Promise<ChatRequestRow | undefined> {
  const { rows } = await sql<ChatRequestRow>`
    select ${FIELDS} from oncefleet.chat_requests
    where job_id = ${jobId} and tenant = ${tenant} and hidden_at is null`.execute(db);
  return rows[0];
}

/** Of the newest job of a chat. */
export async function findNewestOfThread(
  db: Kysely<Database>,
  tenant: string,
  thread: string,
): Promise<ChatRequestRow | undefined> {
  const { rows } = await sql<ChatRequestRow>`
    select ${FIELDS} from oncefleet.chat_requests
    where tenant = ${tenant} and thread = ${thread} and hidden_at is null
    order by job_id desc limit 1`.execute(db);
  return rows[0];
}

/** @returns false: it was not there */
export async function hideChatRequest(db: Kysely<Database>, tenant: string, jobId: string): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update oncefleet.chat_requests set hidden_at = clock_timestamp()
    where job_id = ${jobId} and tenant = ${tenant} and hidden_at is null`.execute(db);
  return numAffectedRows === 1n;
}
