/** The routes of OpenAI's Responses API. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { ChatRequestRecord } from '../../client/chats.ts';
import { InputInvalidError, OncefleetError } from '../../errors.ts';
import type { ChatMessage } from '../../jobs/define-job.ts';
import { CONTROL_BODY_BYTES } from '../body.ts';
import { jobIdOf, type ResponseHead, ResponsesDialect, responseIdOf } from '../dialects/responses.ts';
import { type StreamRoutesOptions, streamEvents } from '../event-stream.ts';
import { type AskedChat, ask, readBody } from './ask.ts';
import { flag, metadata, responseInput } from './messages.ts';
import { projectJournal, projectToEnd } from './project.ts';

/** Messages of a chain that are kept: what an answer rests on is less. */
const MAX_CHAIN = 40;

const createBody = z.looseObject({
  model: z.string('expected the name of a model, as GET /v1/models lists them').min(1).max(200),
  input: responseInput,
  instructions: z.string().nullish(),
  previous_response_id: z.string().nullish(),
  stream: flag,
  background: flag,
  metadata,
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
});

const idParams = z.object({ id: z.string().describe('`resp_` and 32 hexadecimal digits.') });
const tags = ['openai'];
const errors = 'openai' as const;
const response = { 200: z.looseObject({ id: z.string(), object: z.literal('response') }) };

export async function responsesRoutes(app: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  createRoute(app, options);
  readRoutes(app, options);
  changeRoutes(app, options);
}

function createRoute(app: FastifyInstance, options: StreamRoutesOptions): void {
  const { client } = options;
  app.post(
    '/responses',
    {
      config: { errors },
      schema: {
        summary: "Ask a model, in the words of OpenAI's Responses API",
        description: 'Every response is a background one: disconnecting never cancels it.',
        tags,
        body: z.unknown(),
        response,
      },
    },
    async (request, reply) => {
      const body = readBody(createBody, request.body);
      const earlier = await chainOf(options, body.previous_response_id ?? null, request);
      const asked: AskedChat = {
        model: body.model,
        messages: [...earlier, ...body.input],
        earlier: earlier.length,
        instructions: body.instructions ?? null,
        metadata: body.metadata,
        own: {
          previousResponseId: body.previous_response_id ?? null,
          temperature: body.temperature ?? null,
          topP: body.top_p ?? null,
        },
      };
      const { handle, record } = await ask(client, { api: 'responses', asked, field: 'input', request, reply });
      const dialect = () => new ResponsesDialect(headOf(record));
      if (body.stream) return streamEvents(options, { id: handle.id, after: -1, dialect: dialect(), request, reply });
      if (!body.background) {
        const ended = (await projectToEnd(options, handle.id, dialect, { request, reply })) as ResponsesDialect;
        return reply.send(ended.snapshot());
      }
      return reply.send(await readResponse(options, record, request));
    },
  );
}

function readRoutes(app: FastifyInstance, options: StreamRoutesOptions): void {
  app.get(
    '/responses/:id',
    {
      config: { errors },
      schema: {
        summary: 'A response as it stands, or with `stream=true` its events after `starting_after`',
        tags,
        params: idParams,
        querystring: z.looseObject({ stream: z.string().optional(), starting_after: z.string().optional() }),
        response,
      },
    },
    async (request, reply) => {
      const record = await findResponse(options, request);
      const { stream, starting_after: cursor } = request.query as Record<string, string | undefined>;
      if (stream !== 'true') return reply.send(await readResponse(options, record, request));
      const dialect = new ResponsesDialect(headOf(record), readNumber(cursor));
      return streamEvents(options, { id: record.jobId, after: -1, dialect, request, reply });
    },
  );

  app.get(
    '/responses/:id/input_items',
    {
      config: { errors },
      schema: {
        summary: 'The messages that a response answers, newest first',
        tags,
        params: idParams,
        response: { 200: z.looseObject({ object: z.literal('list') }) },
      },
    },
    async (request, reply) => {
      const { jobId, request: asked } = await findResponse(options, request);
      const hex = jobId.replaceAll('-', '');
      const data = asked.messages.slice(asked.earlier).map(({ role, content }, index) => ({
        id: `msg_${hex}_in${index}`,
        type: 'message',
        status: 'completed',
        role,
        content: [{ type: role === 'assistant' ? 'output_text' : 'input_text', text: content }],
      }));
      if ((request.query as { order?: unknown }).order !== 'asc') data.reverse();
      return reply.send({
        object: 'list',
        data,
        first_id: data[0]?.id ?? null,
        last_id: data.at(-1)?.id ?? null,
        has_more: false,
      });
    },
  );
}

function changeRoutes(app: FastifyInstance, options: StreamRoutesOptions): void {
  const { client } = options;
  app.post(
    '/responses/:id/cancel',
    {
      config: { errors },
      bodyLimit: CONTROL_BODY_BYTES,
      schema: { summary: 'Cancel a response; again is the same as once', tags, params: idParams, response },
    },
    async (request, reply) => {
      const record = await findResponse(options, request);
      await client.cancel(record.jobId, { tenant: request.tenant });
      const answer = await readResponse(options, record, request);
      // Its worker is told, and the journal will say so.
      const ended = answer.status !== 'queued' && answer.status !== 'in_progress';
      return reply.send(
        ended ? answer : { ...answer, status: 'cancelled', incomplete_details: { reason: 'cancelled' } },
      );
    },
  );

  app.delete(
    '/responses/:id',
    {
      config: { errors, scope: 'enqueue' },
      schema: {
        summary: 'Delete a response: it is cancelled if it runs, and not found from then on',
        tags,
        params: idParams,
        response: { 200: z.object({ id: z.string(), object: z.string(), deleted: z.boolean() }) },
      },
    },
    async (request, reply) => {
      const { jobId } = await findResponse(options, request);
      await client.cancel(jobId, { tenant: request.tenant });
      await client.chats.hide(jobId, request.tenant);
      return reply.send({ id: responseIdOf(jobId), object: 'response.deleted', deleted: true });
    },
  );
}

/** @throws OncefleetError JOB_NOT_FOUND */
async function findResponse(
  { client }: StreamRoutesOptions,
  request: FastifyRequest,
): Promise<ChatRequestRecord<AskedChat>> {
  const { id } = request.params as { id: string };
  const jobId = jobIdOf(id);
  const record = jobId === undefined ? undefined : await client.chats.find<AskedChat>(jobId, request.tenant);
  if (record?.api === 'responses') return record;
  throw new OncefleetError('JOB_NOT_FOUND', `No response has the id ${id.slice(0, 100)}`);
}

async function readResponse(
  options: StreamRoutesOptions,
  record: ChatRequestRecord<AskedChat>,
  request: FastifyRequest,
): Promise<Record<string, unknown>> {
  const dialect = new ResponsesDialect(headOf(record));
  await projectJournal(options, record.jobId, dialect, request);
  return dialect.snapshot();
}

/** The conversation that a response continues. @throws InputInvalidError there is none, or it has no answer yet */
async function chainOf(
  options: StreamRoutesOptions,
  previous: string | null,
  request: FastifyRequest,
): Promise<ChatMessage[]> {
  if (previous === null) return [];
  const refuse = (message: string) => new InputInvalidError('Body', [{ path: 'previous_response_id', message }]);
  const jobId = jobIdOf(previous);
  const record = jobId === undefined ? undefined : await options.client.chats.find<AskedChat>(jobId, request.tenant);
  if (record?.api !== 'responses') throw refuse(`no response has the id ${previous.slice(0, 100)}`);
  const dialect = new ResponsesDialect(headOf(record));
  const ended = await projectJournal(options, record.jobId, dialect, request);
  if (!ended) throw refuse('that response is not finished; wait for it first');
  const answer: ChatMessage = { role: 'assistant', content: dialect.text };
  return [...record.request.messages, ...(answer.content === '' ? [] : [answer])].slice(-MAX_CHAIN);
}

function headOf({ jobId, createdAt, request }: ChatRequestRecord<AskedChat>): ResponseHead {
  const { model, instructions, metadata: pairs, own } = request;
  return {
    jobId,
    createdAt: Math.floor(createdAt / 1_000),
    model,
    instructions,
    metadata: pairs,
    previousResponseId: own.previousResponseId as string | null,
    temperature: own.temperature as number | null,
    topP: own.topP as number | null,
  };
}

/** @throws InputInvalidError */
function readNumber(cursor: string | undefined): number {
  if (cursor === undefined || cursor === '') return -1;
  const number = Number(cursor);
  if (/^\d{1,15}$/.test(cursor)) return number;
  throw new InputInvalidError('Query', [
    { path: 'starting_after', message: 'expected the sequence_number of an event' },
  ]);
}
