/** The route that makes a ticket: what a browser follows one stream with, instead of its tenant's token. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { CONTROL_BODY_BYTES } from './body.ts';
import { readJobId } from './job-id.ts';
import { problemResponses } from './problem.ts';
import { jobIdParams, queryInt } from './schemas.ts';

/** A proxy that logs a query logs what has expired soon. */
const DEFAULT_TTL_S = 300;
const MAX_TTL_S = 3_600;

const ticketQuery = z.strictObject({
  ttl: queryInt(10, MAX_TTL_S).describe(`For how long, in seconds; default ${DEFAULT_TTL_S}.`),
});
const ticketAnswer = z.object({
  ticket: z.string().describe('For this stream alone.'),
  expiresAt: z.iso.datetime(),
  events: z.string().describe('The path of the stream, with the ticket.'),
});

export async function ticketRoute(instance: FastifyInstance, { client }: { client: JobClient }): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  app.post(
    '/jobs/:id/ticket',
    {
      config: { scope: 'read' },
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: "A short-lived ticket to follow one job's events",
        description:
          'For clients that cannot set headers (EventSource): a token in a URL gets into logs, a ticket is soon worth nothing.',
        tags: ['events'],
        params: jobIdParams,
        querystring: ticketQuery,
        response: {
          201: ticketAnswer,
          ...problemResponses(
            'INPUT_INVALID',
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
    async (request, reply) => {
      const jobId = readJobId(request.params.id);
      const { tenant } = request;
      await client.readEvents(jobId, { tenant, limit: 0 });
      const expiresAt = Date.now() + (request.query.ttl ?? DEFAULT_TTL_S) * 1_000;
      const ticket = await client.access.tickets.sign({ tenant, jobId, expiresAt });
      reply.header('cache-control', 'no-store').code(201);
      return {
        ticket,
        expiresAt: new Date(expiresAt).toISOString(),
        events: `/v1/jobs/${jobId}/events?ticket=${ticket}`,
      };
    },
  );
}
