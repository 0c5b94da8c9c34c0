/** A request of a chat client becomes a job, once for each idempotency key. */
import { isDeepStrictEqual } from 'node:util';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ChatApi, ChatRequestRecord } from '../../client/chats.ts';
import type { JobClient } from '../../client/client.ts';
import type { JobHandle } from '../../client/types.ts';
import { InputInvalidError, inputInvalid, OncefleetError } from '../../errors.ts';
import type { ChatMessage } from '../../jobs/define-job.ts';
import { readKey } from '../enqueue-route.ts';
import { findModel } from './models.ts';

/** What is kept of a request, to be given back and to be compared with others under its key. */
export interface AskedChat {
  model: string;
  /** The conversation so far, the earlier requests of a chain included. */
  messages: ChatMessage[];
  /** How many of them are of earlier requests. */
  earlier: number;
  instructions: string | null;
  metadata: Record<string, string>;
  /** What the API alone has. */
  own: Record<string, unknown>;
}

interface Asking {
  api: ChatApi;
  asked: AskedChat;
  thread?: string | undefined;
  /** Where the request's headers have none. */
  key?: string | undefined;
  /** The field of the body where the messages stand, for errors. */
  field: string;
  request: FastifyRequest;
  reply: FastifyReply;
}

interface Asked {
  handle: JobHandle;
  record: ChatRequestRecord<AskedChat>;
}

/**
 * Disconnecting never cancels, and so a client that tries again without a key would ask twice: it is told not to.
 *
 * @throws InputInvalidError; OncefleetError JOB_NAME_UNKNOWN, KEY_MISMATCH, JOB_NOT_FOUND what has the key was deleted
 */
export async function ask(
  client: JobClient,
  { api, asked, thread, key: own, field, request, reply }: Asking,
): Promise<Asked> {
  const { tenant } = request;
  const { job, variant } = findModel(client, asked.model);
  const header = request.headers['idempotency-key'];
  const key = readKey(typeof header === 'string' ? header : undefined) ?? own;
  const { messages, instructions, metadata } = asked;
  const input = job.fromChat({ messages, variant, instructions: instructions ?? undefined, metadata });
  let handle: JobHandle;
  try {
    handle = await client.enqueue(job.name, input, { tenant, ...(key === undefined ? {} : { key }) });
  } catch (error) {
    throw error instanceof InputInvalidError ? asOfBody(error, field) : error;
  }
  if (key === undefined) reply.header('x-should-retry', 'false');
  if (handle.outcome === 'replayed') reply.header('idempotency-replayed', 'true');
  const record = await client.chats.keep<AskedChat>({ jobId: handle.id, tenant, api, thread, request: asked });
  if (record === undefined)
    throw new OncefleetError('JOB_NOT_FOUND', 'What this idempotency key began was deleted; use another key');
  if (record.api !== api || !isDeepStrictEqual(record.request, JSON.parse(JSON.stringify(asked))))
    throw new OncefleetError('KEY_MISMATCH', 'This idempotency key was used before with another request');
  return { handle, record };
}

/** The body of a request by its schema. @throws InputInvalidError; OncefleetError BODY_INVALID */
export function readBody<T>(
  schema: { safeParse(value: unknown): { success: true; data: T } | { success: false; error: ZodFailure } },
  body: unknown,
): T {
  if (body === undefined) throw new OncefleetError('BODY_INVALID', 'The body is empty; send JSON');
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw inputInvalid('Body', parsed.error.issues);
}

interface ZodFailure {
  issues: readonly { path: readonly PropertyKey[]; message: string }[];
}

/** The job's input was made of the body: its fields are told by where they stand there. */
function asOfBody(error: InputInvalidError, field: string): InputInvalidError {
  const issues = error.issues.map(({ path, message }) => ({
    path: path === 'collection' ? 'model' : field,
    message: path === 'collection' ? `${message} (model: "answer/<collection>")` : `${path}: ${message}`,
  }));
  return new InputInvalidError('Body', issues, error.code, error.issueCount);
}
