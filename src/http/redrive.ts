/** Redriving many failed jobs at once. The request is held while canaries run, and a client that leaves stops it. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { JobClient } from '../client/client.ts';
import type { RedriveManyOptions } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import { parseOptions } from '../options.ts';
import { CONTROL_BODY_BYTES } from './body.ts';
import type { OpenStreams } from './open-streams.ts';
import { problemResponses } from './problem.ts';
import { redriveManyAnswer, redriveManyBody } from './schemas.ts';

/** Proxies cut off requests that take much longer. */
const CANARY_TIMEOUT_MS = 50_000;

interface RedriveRoutesOptions {
  client: JobClient;
  streams: OpenStreams;
}

export async function redriveRoutes(instance: FastifyInstance, options: RedriveRoutesOptions): Promise<void> {
  const { client, streams } = options;
  const app = instance.withTypeProvider<ZodTypeProvider>();
  app.post(
    '/redrive',
    {
      config: { scope: 'admin' },
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Run failed jobs again, all that match',
        description:
          'With `canary`, so many first: the answer waits for them, and the rest is redriven only if all of them complete. Leaving stops it: what was not redriven by then stays failed. One request takes 10,000 jobs at most, longest failed first. Sent again, it takes what is still failed, until `matched` is 0.',
        tags: ['jobs'],
        body: redriveManyBody,
        response: {
          202: redriveManyAnswer,
          ...problemResponses(
            'INPUT_INVALID',
            'BODY_INVALID',
            'REQUEST_STALLED',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      // Nothing at all is too easily sent by mistake to stand for every failed job.
      if (request.body === undefined)
        throw new OncefleetError('BODY_INVALID', 'The body is empty; send a filter, or {} for any failed job');
      const body = parseOptions('Redrive', redriveManyBody, request.body);
      const left = new AbortController();
      const onClose = () => left.abort();
      reply.raw.once('close', onClose);
      const signal = AbortSignal.any([left.signal, streams.drainSignal]);
      try {
        const result = await client.redriveMany({
          canaryTimeoutMs: CANARY_TIMEOUT_MS,
          ...(body as RedriveManyOptions),
          tenant: request.tenant,
          signal,
        });
        return reply.code(202).send(result);
      } catch (error) {
        if (!signal.aborted) throw error;
        throw new OncefleetError('SHUTTING_DOWN', 'This process is closing; send it again to redrive what is left');
      } finally {
        reply.raw.off('close', onClose);
      }
    },
  );
}
