/** Is this process alive; can it serve. Both are for probes and need no token. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { OncefleetError } from '../errors.ts';
import type { OpenStreams } from './open-streams.ts';
import { problemResponses, sendProblem } from './problem.ts';

const part = z.enum(['ok', 'unreachable']);

interface HealthRoutesOptions {
  client: JobClient;
  streams: OpenStreams;
}

export async function healthRoutes(app: FastifyInstance, { client, streams }: HealthRoutesOptions): Promise<void> {
  app.get(
    '/healthz',
    {
      config: { duringDrain: true, quiet: true, anyHost: true },
      schema: {
        summary: 'The process is alive',
        tags: ['health'],
        response: { 200: z.object({ status: z.literal('ok') }) },
      },
    },
    async () => ({ status: 'ok' }),
  );

  app.get(
    '/readyz',
    {
      config: { quiet: true, anyHost: true },
      schema: {
        summary: 'The process can serve',
        tags: ['health'],
        response: {
          200: z.object({ status: z.literal('ready'), postgres: part, redis: part }),
          ...problemResponses('STORE_UNAVAILABLE', 'SERVICE_MISSING', 'SHUTTING_DOWN'),
        },
      },
    },
    async (request, reply) => {
      if (streams.draining) throw new OncefleetError('SHUTTING_DOWN', 'This process is closing');
      const { postgres, redis } = await client.health();
      const parts = {
        postgres: postgres === undefined ? 'ok' : 'unreachable',
        redis: redis === undefined ? 'ok' : 'unreachable',
      };
      if (postgres === undefined && redis === undefined) return { status: 'ready', ...parts };
      const wrong = Object.entries(parts).filter(([, state]) => state !== 'ok');
      const names = wrong.map(([name]) => (name === 'postgres' ? 'Postgres' : 'Redis')).join(' and ');
      // Anybody may read this answer, so what exactly is wrong, and where, is for the log.
      const cause = new Error([postgres, redis].filter((text) => text !== undefined).join('; '));
      const error = new OncefleetError(
        postgres === undefined ? 'SERVICE_MISSING' : 'STORE_UNAVAILABLE',
        `${names} cannot be reached`,
        { cause },
      );
      sendProblem(error, request, reply, parts);
      return reply;
    },
  );
}
