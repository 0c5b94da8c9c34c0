/** Routes that show and search jobs. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import type { Schema } from '../jobs/define-job.ts';
import type { ByteBudget } from './byte-budget.ts';
import { holdOf } from './counted-bytes.ts';
import { jobNotFound, readJobId } from './job-id.ts';
import { problemResponses } from './problem.ts';
import { definitionsAnswer, jobAnswer, jobIdParams, searchAnswer, searchQuery } from './schemas.ts';

/** Longest input and longest result that an answer carries, bytes. */
const MAX_PAYLOAD_BYTES = 4 * 1024 * 1024;

export interface JobRoutesOptions {
  client: JobClient;
}

interface JobReadsOptions extends JobRoutesOptions {
  budget: ByteBudget;
}

export async function jobRoutes(instance: FastifyInstance, { client, budget }: JobReadsOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/jobs',
    {
      schema: {
        summary: 'Search jobs, newest first',
        description: 'Without inputs and results: one job has them.',
        tags: ['jobs'],
        querystring: searchQuery,
        response: {
          200: searchAnswer,
          ...problemResponses(
            'INPUT_INVALID',
            'KEY_INVALID',
            'CURSOR_INVALID',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'STORE_UNAVAILABLE',
            'BUSY',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request) => {
      const given = Object.entries(request.query).filter(([, value]) => value !== undefined);
      const { tenant } = request;
      return budget.read(holdOf(request), () => client.find({ tenant, ...Object.fromEntries(given) }));
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
          ...problemResponses(
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NOT_FOUND',
            'STORE_UNAVAILABLE',
            'BUSY',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request) => {
      const id = readJobId(request.params.id);
      const { tenant } = request;
      const hold = holdOf(request);
      const job = await budget.read(hold, () => client.get(id, { tenant, maxBytes: MAX_PAYLOAD_BYTES }));
      if (job === undefined) throw jobNotFound(id);
      return job;
    },
  );
  definitionsRoute(instance, client);
}

function definitionsRoute(instance: FastifyInstance, client: JobClient): void {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  // Made once, for all: what does not change between answers is not held once for each of them.
  const definitions = Buffer.from(JSON.stringify(describeDefinitions(client)));
  app.get(
    '/job-definitions',
    {
      config: { sharedAnswer: true },
      schema: {
        summary: 'Every job that can be enqueued, with the JSON Schema of its input',
        tags: ['jobs'],
        response: { 200: definitionsAnswer, ...problemResponses('UNAUTHORIZED', 'SCOPE_MISSING', 'SHUTTING_DOWN') },
      },
    },
    async (_request, reply) => reply.type('application/json; charset=utf-8').send(definitions as never),
  );
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
