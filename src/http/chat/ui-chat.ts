/** The routes that `useChat` of the AI SDK calls: `DefaultChatTransport`, and `WorkflowChatTransport`. */
import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { ChatRequestRecord } from '../../client/chats.ts';
import { isTerminalStatus } from '../../db/jobs/states.ts';
import { OncefleetError } from '../../errors.ts';
import { CONTROL_BODY_BYTES, createBodyParser } from '../body.ts';
import { UiMessageDialect } from '../dialects/ui-messages.ts';
import { type StreamRoutesOptions, streamEvents } from '../event-stream.ts';
import { problemResponses } from '../problem.ts';
import { type AskedChat, ask, readBody } from './ask.ts';
import { uiMessages } from './messages.ts';
import { scanJournal } from './project.ts';

/** The model of a request that names none. */
const DEFAULT_MODEL = 'answer';

/** Postgres takes no NUL, and no half of a pair. */
const chatId = z
  .string('expected the id of the chat')
  .regex(/^[^\p{Cc}\p{Cs}]{1,200}$/u, 'expected 1 to 200 characters, and no control characters');

const chatBody = z.looseObject({
  id: chatId,
  messages: uiMessages,
  trigger: z
    .enum(['submit-message', 'regenerate-message'], 'expected submit-message or regenerate-message')
    .default('submit-message'),
  model: z.string('expected the name of a model, as GET /v1/models lists them').min(1).max(200).default(DEFAULT_MODEL),
});

const idParams = z.object({ id: chatId.describe("The chat's id, or the run's that `x-workflow-run-id` has.") });
const resetStep = z
  .enum(['true', 'false'])
  .optional()
  .describe('`true`: the client understands `reset-step`, as version 7 does.');
const startIndex = z
  .string()
  .regex(/^\d{1,9}$/, 'expected a number of chunks, 0 or more')
  .optional();
const tags = ['ai-sdk'];
const stream = { 200: z.unknown().describe('`text/event-stream`: chunks of a UI message, then `[DONE]`.') };
const refusals = [
  'INPUT_INVALID',
  'UNAUTHORIZED',
  'SCOPE_MISSING',
  'JOB_NOT_FOUND',
  'STORE_UNAVAILABLE',
  'SHUTTING_DOWN',
] as const;

interface UiChatOptions extends StreamRoutesOptions {
  stallMs: number;
}

export async function uiChatRoutes(app: FastifyInstance, options: UiChatOptions): Promise<void> {
  // WorkflowChatTransport names no type for its JSON.
  app.addContentTypeParser('text/plain', createBodyParser(options.stallMs));
  askRoute(app, options);
  resumeRoute(app, options);
  stopRoute(app, options);
}

function askRoute(app: FastifyInstance, options: UiChatOptions): void {
  app.post(
    '',
    {
      schema: {
        summary: 'Ask a model, in the words of the AI SDK',
        description: 'The same message of the same chat is asked once. Disconnecting never cancels.',
        tags,
        querystring: z.looseObject({ 'reset-step': resetStep }),
        body: z.unknown().describe('`id`, `messages`, `trigger`, and `model` (else `answer`).'),
        response: {
          ...stream,
          ...problemResponses(
            ...refusals,
            'BODY_INVALID',
            'JOB_NAME_UNKNOWN',
            'KEY_INVALID',
            'KEY_MISMATCH',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
          ),
        },
      },
    },
    async (request, reply) => {
      const { id, messages, trigger, model } = readBody(chatBody, request.body);
      const messageId = messages.at(-1)?.id ?? null;
      const asked: AskedChat = {
        model,
        messages: messages.map(({ role, content }) => ({ role, content })),
        earlier: 0,
        instructions: null,
        metadata: {},
        own: { chatId: id, messageId, trigger },
      };
      const key = trigger === 'regenerate-message' || messageId === null ? undefined : keyOf(asked);
      const { handle } = await ask(options.client, {
        api: 'ui',
        asked,
        thread: id,
        key,
        field: 'messages',
        request,
        reply,
      });
      reply.header('x-workflow-run-id', handle.id);
      const isWorkflow = request.headers['content-type']?.startsWith('text/plain') === true;
      const resets = isWorkflow || resetsOf(request);
      const from = resets || handle.outcome === 'created' ? -1 : await startOf(options, handle.id, request);
      const dialect = new UiMessageDialect({ jobId: handle.id, resets, from });
      return streamEvents(options, { id: handle.id, after: -1, dialect, request, reply });
    },
  );
}

function resumeRoute(app: FastifyInstance, options: UiChatOptions): void {
  app.get(
    '/:id/stream',
    {
      schema: {
        summary: 'The answer in flight of a chat, from its start; or of a run, from a chunk on',
        tags,
        params: idParams,
        querystring: z.looseObject({ 'reset-step': resetStep, startIndex }),
        response: {
          ...stream,
          204: z.undefined().describe('Nothing is in flight.'),
          ...problemResponses(...refusals, 'STREAM_EXPIRED'),
        },
      },
    },
    async (request, reply) => {
      const { tenant } = request;
      const { startIndex: chunks } = request.query as { startIndex?: string };
      const record = await findChat(options, request, chunks !== undefined);
      if (record === undefined && chunks !== undefined) throw notFound(request);
      const job = record && (await options.client.get(record.jobId, { tenant, maxBytes: 0 }));
      // A client that counts chunks wants the rest also of what has ended since.
      const isOver = job === undefined || (chunks === undefined && isTerminalStatus(job.status));
      if (record === undefined || isOver) return reply.code(204).send();
      const { jobId } = record;
      reply.header('x-workflow-run-id', jobId);
      // The chunks before are counted as they were sent, those that were taken back among them.
      const resets = chunks !== undefined || resetsOf(request);
      const from = resets ? -1 : await startOf(options, jobId, request);
      const dialect = new UiMessageDialect({ jobId, resets, from, skip: Number(chunks ?? 0) });
      return streamEvents(options, { id: jobId, after: -1, dialect, request, reply });
    },
  );
}

function stopRoute(app: FastifyInstance, options: UiChatOptions): void {
  app.post(
    '/:id/stop',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Cancel the newest answer of a chat; again is the same as once',
        tags,
        params: idParams,
        response: {
          200: z.object({ id: z.string(), status: z.string() }),
          ...problemResponses(...refusals, 'BODY_TOO_LARGE'),
        },
      },
    },
    async (request) => {
      const record = await findChat(options, request, false);
      if (record === undefined) throw notFound(request);
      const { status } = await options.client.cancel(record.jobId, { tenant: request.tenant });
      return { id: record.jobId, status };
    },
  );
}

/** The newest request of a chat, or that of a run. */
async function findChat(
  { client }: UiChatOptions,
  request: FastifyRequest,
  runFirst: boolean,
): Promise<ChatRequestRecord<AskedChat> | undefined> {
  const { id } = request.params as { id: string };
  const byRun = async () => {
    const record = await client.chats.find<AskedChat>(id.toLowerCase(), request.tenant);
    return record?.api === 'ui' ? record : undefined;
  };
  const byChat = async () => client.chats.newest<AskedChat>(id, request.tenant);
  return runFirst ? ((await byRun()) ?? (await byChat())) : ((await byChat()) ?? (await byRun()));
}

/** Where the attempt begins that counts. */
async function startOf(options: UiChatOptions, jobId: string, request: FastifyRequest): Promise<number> {
  const read = new UiMessageDialect({ jobId, from: Infinity });
  await scanJournal(options, jobId, read, request);
  return read.startedOver;
}

/** An edited message keeps its id, and is another request: the whole of it is in the key. */
function keyOf(asked: AskedChat): string {
  return `ui:${createHash('sha256').update(JSON.stringify(asked)).digest('hex')}`;
}

function resetsOf(request: FastifyRequest): boolean {
  return (request.query as Record<string, unknown>)['reset-step'] === 'true';
}

function notFound(request: FastifyRequest): OncefleetError {
  const { id } = request.params as { id: string };
  return new OncefleetError('JOB_NOT_FOUND', `No chat or run has the id ${id.slice(0, 100)}`);
}
