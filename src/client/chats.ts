/** What clients of chat APIs asked for, as the web process keeps it beside the jobs that answer. */
import {
  type ChatApi,
  type ChatRequestRow,
  findChatRequest,
  findNewestOfThread,
  hideChatRequest,
  insertChatRequest,
} from '../db/chat-requests.ts';
import { isUuid } from '../util/uuid.ts';
import type { ClientHost } from './host.ts';

export type { ChatApi };

export interface ChatRequestRecord<T = unknown> extends Omit<ChatRequestRow, 'request'> {
  request: T;
}

export interface Chats {
  /** Keeps a request, unless its job has one. @returns the one that the job has; undefined: its client has deleted it */
  keep<T>(asked: {
    jobId: string;
    tenant: string;
    api: ChatApi;
    thread?: string | undefined;
    request: T;
  }): Promise<ChatRequestRecord<T> | undefined>;
  find<T>(jobId: string, tenant: string): Promise<ChatRequestRecord<T> | undefined>;
  /** Of the newest job of a chat of the AI SDK. */
  newest<T>(thread: string, tenant: string): Promise<ChatRequestRecord<T> | undefined>;
  /** @returns false: there is none */
  hide(jobId: string, tenant: string): Promise<boolean>;
}

export function createChats({ runtime }: ClientHost): Chats {
  const db = runtime.db.kysely;
  const find = async <T>(jobId: string, tenant: string) =>
    isUuid(jobId) ? toRecord<T>(await findChatRequest(db, tenant, jobId)) : undefined;
  return {
    async keep<T>({ request, ...asked }: Parameters<Chats['keep']>[0]) {
      await insertChatRequest(db, { ...asked, thread: asked.thread, request: JSON.stringify(request) });
      return find<T>(asked.jobId, asked.tenant);
    },
    find,
    newest: async (thread, tenant) => toRecord(await findNewestOfThread(db, tenant, thread)),
    hide: async (jobId, tenant) => isUuid(jobId) && (await hideChatRequest(db, tenant, jobId)),
  };
}

function toRecord<T>(row: ChatRequestRow | undefined): ChatRequestRecord<T> | undefined {
  return row === undefined ? undefined : { ...row, request: JSON.parse(row.request) as T };
}
