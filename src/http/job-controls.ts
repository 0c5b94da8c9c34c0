/** Routes that cancel and redrive one job. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { CONTROL_BODY_BYTES } from './body.ts';
import { linksOf, readJobId } from './job-id.ts';
import type { JobRoutesOptions } from './jobs.ts';
import { problemResponses } from './problem.ts';
import { cancelAnswer, jobIdParams, redriveAnswer } from './schemas.ts';

export async function jobControlRoutes(instance: FastifyInstance, { client }: JobRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

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
          ...problemResponses(
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NOT_FOUND',
            'BODY_TOO_LARGE',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
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
      config: { scope: 'admin' },
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Run a failed job again, its counters reset',
        tags: ['jobs'],
        params: jobIdParams,
        response: {
          202: redriveAnswer,
          ...problemResponses(
            'UNAUTHORIZED',
            'SCOPE_MISSING',
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
      const job = await client.get(id, { tenant: request.tenant, maxBytes: 0 });
      return reply.code(202).send({ id, status: job?.status ?? 'pending', links: linksOf(id) });
    },
  );
}
