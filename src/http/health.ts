/** Is this process alive; can it serve. Both are for probes and need no token. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { OncefleetError } from '../errors.ts';
import type { OpenStreams } from './open-streams.ts';
import { problemResponses, sendProblem } from './problem.ts';

const part = z
  .enum(['ok', 'unreachable', 'read-only', 'disk-full', 'out-of-memory', 'cannot-save', 'refuses-writes'])
  .describe('Of what answers and takes no writes: why.');

/** What to say of a service, by why it cannot serve. */
const DETAILS: Readonly<Record<Exclude<z.infer<typeof part>, 'ok'>, string>> = {
  unreachable: 'cannot be reached',
  'read-only': 'is read-only',
  'disk-full': 'has no disk space left',
  'out-of-memory': 'has no memory left',
  'cannot-save': 'cannot save its data',
  'refuses-writes': 'refuses writes',
};

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
      const { postgres, redis, reasons = {} } = await client.health();
      const parts = {
        postgres: postgres === undefined ? 'ok' : (reasons.postgres ?? 'unreachable'),
        redis: redis === undefined ? 'ok' : (reasons.redis ?? 'unreachable'),
      } as const;
      if (postgres === undefined && redis === undefined) return { status: 'ready', ...parts };
      // Anybody may read this answer, so what exactly is wrong, and where, is for the log.
      const cause = new Error([postgres, redis].filter((text) => text !== undefined).join('; '));
      const error = new OncefleetError(
        postgres === undefined ? 'SERVICE_MISSING' : 'STORE_UNAVAILABLE',
        describe(parts),
        { cause },
      );
      sendProblem(error, request, reply, parts);
      return reply;
    },
  );
}

/** What cannot serve, and why. */
function describe({ postgres, redis }: Readonly<Record<'postgres' | 'redis', z.infer<typeof part>>>): string {
  if (postgres === 'unreachable' && redis === 'unreachable') return 'Postgres and Redis cannot be reached';
  const of = (name: string, state: z.infer<typeof part>) => (state === 'ok' ? [] : [`${name} ${DETAILS[state]}`]);
  return [...of('Postgres', postgres), ...of('Redis', redis)].join(', ');
}
