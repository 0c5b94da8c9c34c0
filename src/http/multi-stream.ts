/**
 * The events of several jobs in one response: browsers allow six connections to a host, and
 * a page may show more jobs than that.
 *
 * Each stream keeps its own order; between streams there is none. The cursor of a frame is
 * where its reader stands in every stream: `<key>=<cursor>` with commas between, where the
 * key is the last group of the stream's id.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { isTerminalType, type StreamEvent } from '../journal/event.ts';
import { bothTurns, Turns } from '../util/turns.ts';
import { holdOf } from './counted-bytes.ts';
import { NATIVE } from './dialects/native.ts';
import type { StreamRoutesOptions } from './event-stream.ts';
import { Cursors, readStreamIds } from './multi-cursors.ts';
import { isStoreUnavailable, loggableError, problemResponses, sendProblem } from './problem.ts';
import { type ResponseStream, refuseForNow, startResponse } from './response-stream.ts';
import { eventsHeaders, multiEventsQuery } from './schemas.ts';
import { formatFrame } from './sse.ts';

/** Characters of live messages that all streams of a response keep while its reader is slow. */
const MAX_INBOX_LENGTH = 1024 * 1024;

export async function multiStreamRoutes(instance: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/events',
    {
      config: { queryToken: true, duringDrain: true, waitsForRoom: true },
      errorHandler: sendProblemOrRetry,
      schema: {
        summary: 'Follow the events of several jobs',
        description:
          'Server-sent events, each with `{stream, seq, fence, event}` as its data, until every stream has had its terminal event; reconnect with `Last-Event-ID` and the same `streams`.',
        tags: ['events'],
        headers: eventsHeaders,
        querystring: multiEventsQuery,
        response: {
          200: {
            description: 'Events after the cursor.',
            content: { 'text/event-stream': { schema: z.string() } },
          },
          204: z.undefined().describe('The cursor is at or past the terminal event of every stream; stop.'),
          ...problemResponses(
            'INPUT_INVALID',
            'CURSOR_INVALID',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NOT_FOUND',
            'STREAM_EXPIRED',
          ),
        },
      },
    },
    async (request, reply) => {
      if (options.streams.draining) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });
      const ids = readStreamIds(request.query.streams);
      const { after, lastEventId } = request.query;
      const cursor = [request.headers['last-event-id'], after, lastEventId].find(
        (text) => text !== undefined && text !== '',
      );
      return openStreams(options, request, reply, new Cursors(ids, cursor));
    },
  );
}

/** It is always server-sent events, and an EventSource never comes back after a 503: not even before its token is known. */
function sendProblemOrRetry(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  if (isStoreUnavailable(error))
    refuseForNow(request, reply, { dialect: NATIVE, code: 'STORE_UNAVAILABLE', cause: error });
  else sendProblem(error, request, reply);
}

/** Decides the status while it still can, then streams. */
async function openStreams(
  { client, streams, keepaliveMs, budget }: StreamRoutesOptions,
  request: FastifyRequest,
  reply: FastifyReply,
  cursors: Cursors,
): Promise<FastifyReply> {
  const { tenant } = request;
  let unfinished: string[];
  try {
    const pages = await Promise.all(
      cursors.ids.map((id) => client.readEvents(id, { tenant, after: cursors.of(id), limit: 0 })),
    );
    unfinished = cursors.ids.filter((_, i) => !(pages[i]?.finished === true && pages[i].events.length === 0));
  } catch (error) {
    // An EventSource never comes back after a 503.
    if (isStoreUnavailable(error)) return refuseForNow(request, reply, { dialect: NATIVE, code: 'STORE_UNAVAILABLE' });
    throw error;
  }
  if (unfinished.length === 0) return reply.code(204).send();
  if (streams.draining) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });
  streams.admit(request, reply, unfinished.length);
  const { account } = holdOf(request);
  const stream = startResponse(request, reply, { dialect: NATIVE, keepaliveMs, budget, account });
  if (stream === undefined) return reply;
  const shared = {
    client,
    request,
    stream,
    cursors,
    reading: new Turns(),
    budget,
    writing: new Turns(),
  };
  await streams.run(stream, async () => {
    await stream.write(NATIVE.open());
    const ended = await Promise.all(unfinished.map((id) => pump(id, shared)));
    if (ended.every((reached) => reached)) stream.end();
  });
  return reply;
}

/** What the streams of a response share. What each has read or is about to write is held while the reader is slow. */
interface Shared extends Pick<StreamRoutesOptions, 'client' | 'budget'> {
  request: FastifyRequest;
  stream: ResponseStream;
  cursors: Cursors;
  /** One of them reads from the journal at a time. */
  reading: Turns;
  /** And one, perhaps another, writes. */
  writing: Turns;
}

/** One stream's events into the response they share. @returns whether its terminal event was the last of them */
async function pump(
  id: string,
  { client, request, stream, cursors, budget, reading, writing }: Shared,
): Promise<boolean> {
  let last = '';
  const bounds = budget.streamBounds(holdOf(request).account);
  try {
    const batches = client.followBatches(id, {
      tenant: request.tenant,
      after: cursors.of(id),
      signal: stream.signal,
      turns: bothTurns(reading, bounds.turns),
      keep: bounds.keep,
      maxInboxLength: Math.ceil(MAX_INBOX_LENGTH / cursors.ids.length),
    });
    for await (const batch of batches) {
      for (const event of batch) {
        const endTurn = await writing.take(stream.signal);
        try {
          cursors.moveTo(id, event);
          // Written before anything else runs: the cursors it brings are those of this very moment.
          if (!(await stream.write(frameOf(id, event, cursors.toString())))) return false;
        } finally {
          endTurn();
        }
        last = event.event.type;
      }
    }
    // Not at the first terminal type: a failed job that was redriven has an `error` in the middle.
    if (isTerminalType(last)) return true;
    if (!stream.signal.aborted) request.log.warn({ jobId: id }, 'follower ended before the terminal event');
  } catch (error) {
    if (!stream.signal.aborted) request.log.warn({ jobId: id, err: loggableError(error) }, 'follower failed');
  }
  // The others must not continue alone: their reader would take this one for quiet.
  if (!stream.signal.aborted) stream.destroy();
  return false;
}

function frameOf(stream: string, event: StreamEvent, cursor: string): string {
  const { seq, fence, json } = event;
  const data = `{"stream":"${stream}","seq":${seq},"fence":${fence},"event":${json}}`;
  const { type } = event.event;
  return formatFrame({ ...(type === 'rewind' ? {} : { id: cursor }), event: type, data });
}
