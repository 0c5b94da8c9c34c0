/** The events of a job: server-sent events when the client accepts them, otherwise a JSON page. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { OncefleetError } from '../errors.ts';
import { holdOf } from './counted-bytes.ts';
import { readCursor } from './cursor.ts';
import { NATIVE } from './dialects/native.ts';
import { type StreamRoutesOptions, streamEvents } from './event-stream.ts';
import { readJobId } from './job-id.ts';
import { formatPage, readPage } from './page.ts';
import { isStoreUnavailable, problemResponses, sendProblem } from './problem.ts';
import { refuseForNow } from './response-stream.ts';
import { eventPage, eventsHeaders, eventsQuery, jobIdParams } from './schemas.ts';

const DEFAULT_PAGE_EVENTS = 100;

export async function streamRoutes(instance: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  const { streams } = options;
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/jobs/:id/events',
    {
      config: { queryToken: true, ticket: true, duringDrain: true, waitsForRoom: true },
      errorHandler: sendProblemOrRetry,
      schema: {
        summary: 'Follow the events of a job',
        description:
          'With `Accept: text/event-stream`, server-sent events until the terminal event (`end`, `error` or `cancelled`); reconnect with `Last-Event-ID`. Otherwise one page of JSON, waiting up to `wait` seconds for its first event.',
        tags: ['events'],
        params: jobIdParams,
        headers: eventsHeaders,
        querystring: eventsQuery,
        response: {
          200: {
            description: 'Events after the cursor.',
            content: { 'text/event-stream': { schema: z.string() }, 'application/json': { schema: eventPage } },
          },
          204: z.undefined().describe('Server-sent events only: the cursor is at or past the terminal event; stop.'),
          ...problemResponses(
            'INPUT_INVALID',
            'CURSOR_INVALID',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NOT_FOUND',
            'STREAM_EXPIRED',
            'STORE_UNAVAILABLE',
            'BUSY',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      reply.header('vary', 'accept');
      const sse = wantsEventStream(request);
      if (streams.draining) {
        if (sse) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });
        throw new OncefleetError('SHUTTING_DOWN', 'This process is closing; try again');
      }
      const id = readJobId(request.params.id);
      const after = readCursor(request.headers['last-event-id'], request.query.after, request.query.lastEventId);
      if (sse) return streamEvents(options, { id, after, dialect: NATIVE, request, reply });
      const { limit = DEFAULT_PAGE_EVENTS, wait = 0 } = request.query;
      const { tenant } = request;
      const query = { id, tenant, after, limit, waitMs: wait * 1_000, raw: reply.raw, hold: holdOf(request) };
      const page = await readPage(options, query);
      reply.header('cache-control', 'no-store').type('application/json');
      return reply.send(formatPage(page) as never);
    },
  );
}

/** Whose token it is may not be known while Postgres is unreachable, and an EventSource never comes back after a 503. */
function sendProblemOrRetry(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  if (wantsEventStream(request) && isStoreUnavailable(error))
    refuseForNow(request, reply, { dialect: NATIVE, code: 'STORE_UNAVAILABLE', cause: error });
  else sendProblem(error, request, reply);
}

function wantsEventStream(request: FastifyRequest): boolean {
  const accept = request.headers.accept ?? '';
  return accept.split(',').some((range) => /^text\/event-stream(?!.*;\s*q=0(\.0*)?\s*$)/i.test(range.trim()));
}
