/** Routes that enqueue, show, search, cancel and redrive jobs. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { OncefleetError } from '../errors.ts';
import type { Schema } from '../jobs/define-job.ts';
import { isUuid } from '../util/uuid.ts';
import { CONTROL_BODY_BYTES } from './body.ts';
import { problemResponses } from './problem.ts';
import {
  cancelAnswer,
  definitionsAnswer,
  enqueueAnswer,
  enqueueHeaders,
  enqueueQuery,
  jobAnswer,
  jobIdParams,
  jobNameParams,
  redriveAnswer,
  searchAnswer,
  searchQuery,
} from './schemas.ts';

export interface JobRoutesOptions {
  client: JobClient;
}

export async function jobRoutes(instance: FastifyInstance, { client }: JobRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.post(
    '/jobs/:name',
    {
      schema: {
        summary: 'Enqueue a job',
        description: 'The body is the input. Disconnecting never cancels the job.',
        tags: ['jobs'],
        params: jobNameParams,
        headers: enqueueHeaders,
        querystring: enqueueQuery,
        body: z.unknown().describe('The input, as /v1/job-definitions describes it.'),
        response: {
          200: enqueueAnswer.describe('The key is of a job that has ended: `Idempotency-Replayed: true`.'),
          202: enqueueAnswer.describe('Accepted, or attached to the job in flight under this key.'),
          ...problemResponses(
            'INPUT_INVALID',
            'KEY_INVALID',
            'BODY_INVALID',
            'EVENT_INVALID',
            'REQUEST_STALLED',
            'UNAUTHORIZED',
            'JOB_NAME_UNKNOWN',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'KEY_MISMATCH',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      if (!client.jobs.has(name))
        throw new OncefleetError('JOB_NAME_UNKNOWN', `No job is named "${name}"; /v1/job-definitions lists them`);
      if (request.body === undefined)
        throw new OncefleetError('BODY_INVALID', 'The body is empty; send the input as JSON');
      const key = readKey(request.headers['idempotency-key']);
      const { delayMs, priority } = request.query;
      const handle = await client.enqueue(name, request.body, {
        tenant: request.tenant,
        ...(key === undefined ? {} : { key }),
        ...(delayMs === undefined ? {} : { delayMs }),
        ...(priority === undefined ? {} : { priority }),
      });
      const answer = { id: handle.id, status: handle.status, outcome: handle.outcome, links: linksOf(handle.id) };
      reply.header('location', answer.links.self);
      if (handle.outcome === 'replayed') return reply.header('idempotency-replayed', 'true').code(200).send(answer);
      return reply.code(202).send(answer);
    },
  );

  app.get(
    '/jobs',
    {
      schema: {
        summary: 'Search jobs, newest first',
        tags: ['jobs'],
        querystring: searchQuery,
        response: {
          200: searchAnswer,
          ...problemResponses(
            'INPUT_INVALID',
            'KEY_INVALID',
            'CURSOR_INVALID',
            'UNAUTHORIZED',
            'STORE_UNAVAILABLE',
            'BUSY',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request) => {
      const given = Object.entries(request.query).filter(([, value]) => value !== undefined);
      return client.find({ tenant: request.tenant, ...Object.fromEntries(given) });
    },
  );

  app.get(
    '/jobs/:id',
    {
      schema: {
        summary: 'One job: status, attempts, result or error',
        tags: ['jobs'],
        params: jobIdParams,
        response: {
          200: jobAnswer,
          ...problemResponses('UNAUTHORIZED', 'JOB_NOT_FOUND', 'STORE_UNAVAILABLE', 'SHUTTING_DOWN'),
        },
      },
    },
    async (request) => {
      const id = readJobId(request.params.id);
      const job = await client.get(id, { tenant: request.tenant });
      if (job === undefined) throw jobNotFound(id);
      return job;
    },
  );

  app.post(
    '/jobs/:id/cancel',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Cancel a job; again is the same as once',
        tags: ['jobs'],
        params: jobIdParams,
        response: {
          200: cancelAnswer,
          ...problemResponses('UNAUTHORIZED', 'JOB_NOT_FOUND', 'BODY_TOO_LARGE', 'STORE_UNAVAILABLE', 'SHUTTING_DOWN'),
        },
      },
    },
    async (request) => {
      const id = readJobId(request.params.id);
      const { status, outcome } = await client.cancel(id, { tenant: request.tenant });
      return { id, status, outcome };
    },
  );

  app.post(
    '/jobs/:id/redrive',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Run a failed job again, its counters reset',
        tags: ['jobs'],
        params: jobIdParams,
        response: {
          202: redriveAnswer,
          ...problemResponses(
            'UNAUTHORIZED',
            'JOB_NOT_FOUND',
            'JOB_NOT_FAILED',
            'BODY_TOO_LARGE',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      const id = readJobId(request.params.id);
      await client.redrive(id, { tenant: request.tenant });
      const job = await client.get(id, { tenant: request.tenant });
      return reply.code(202).send({ id, status: job?.status ?? 'pending', links: linksOf(id) });
    },
  );

  const definitions = describeDefinitions(client);
  app.get(
    '/job-definitions',
    {
      schema: {
        summary: 'Every job that can be enqueued, with the JSON Schema of its input',
        tags: ['jobs'],
        response: { 200: definitionsAnswer, ...problemResponses('UNAUTHORIZED', 'SHUTTING_DOWN') },
      },
    },
    async () => definitions,
  );
}

/**
 * A job id as it stands in a path.
 *
 * @throws OncefleetError JOB_NOT_FOUND: what is no uuid is the id of no job
 */
export function readJobId(text: string): string {
  if (!isUuid(text)) throw jobNotFound(text);
  return text.toLowerCase();
}

function jobNotFound(id: string): OncefleetError {
  return new OncefleetError('JOB_NOT_FOUND', `No job has the id ${id.slice(0, 100)}`);
}

/**
 * Node reads header bytes as Latin-1. Keys are UTF-8, so that one and the same key means
 * the same job over HTTP and in the library.
 */
function readKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  let key: string;
  try {
    key = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(header, 'latin1'));
  } catch {
    throw new OncefleetError('KEY_INVALID', 'Idempotency-Key: expected UTF-8');
  }
  checkKey(key);
  return key;
}

function linksOf(id: string): { self: string; events: string; cancel: string } {
  const self = `/v1/jobs/${id}`;
  return { self, events: `${self}/events`, cancel: `${self}/cancel` };
}

function describeDefinitions(client: JobClient): z.infer<typeof definitionsAnswer> {
  return {
    jobs: [...client.jobs.values()].map((job) => ({
      name: job.name,
      queue: job.queue,
      description: job.description,
      input: describeSchema(job.input, 'input'),
      output: job.output === undefined ? null : describeSchema(job.output, 'output'),
    })),
  };
}

/** JSON Schema of a user's zod schema; what JSON Schema cannot say is left open. */
function describeSchema(schema: Schema, io: 'input' | 'output'): Record<string, unknown> {
  try {
    return { ...z.toJSONSchema(schema as z.ZodType, { io, unrepresentable: 'any' }) };
  } catch {
    return {};
  }
}
