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
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { isTerminalType, type StreamEvent } from '../journal/event.ts';
import { isUuid } from '../util/uuid.ts';
import { cursorOf, readCursor } from './cursor.ts';
import { NATIVE } from './dialects/native.ts';
import type { StreamRoutesOptions } from './event-stream.ts';
import { isStoreUnavailable, loggableError, problemResponses } from './problem.ts';
import { type ResponseStream, refuseForNow, startResponse } from './response-stream.ts';
import { eventsHeaders, MAX_STREAMS, multiEventsQuery } from './schemas.ts';
import { formatFrame } from './sse.ts';

export async function multiStreamRoutes(instance: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  const { client, streams, keepaliveMs } = options;
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/events',
    {
      config: { queryToken: true, duringDrain: true },
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
          ...problemResponses('INPUT_INVALID', 'CURSOR_INVALID', 'UNAUTHORIZED', 'JOB_NOT_FOUND', 'STREAM_EXPIRED'),
        },
      },
    },
    async (request, reply) => {
      if (streams.draining) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });
      const ids = readStreamIds(request.query.streams);
      const { after, lastEventId } = request.query;
      const cursor = [request.headers['last-event-id'], after, lastEventId].find(
        (text) => text !== undefined && text !== '',
      );
      return openStreams(request, reply, new Cursors(ids, cursor));
    },
  );

  /** Decides the status while it still can, then streams. */
  async function openStreams(request: FastifyRequest, reply: FastifyReply, cursors: Cursors): Promise<FastifyReply> {
    const { tenant } = request;
    let unfinished: string[];
    try {
      const pages = await Promise.all(
        cursors.ids.map((id) => client.readEvents(id, { tenant, after: cursors.of(id), limit: 1 })),
      );
      unfinished = cursors.ids.filter((_, i) => !(pages[i]?.finished === true && pages[i].events.length === 0));
    } catch (error) {
      // An EventSource never comes back after a 503.
      if (isStoreUnavailable(error))
        return refuseForNow(request, reply, { dialect: NATIVE, code: 'STORE_UNAVAILABLE' });
      throw error;
    }
    if (unfinished.length === 0) return reply.code(204).send();
    if (streams.draining) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });
    const stream = startResponse(request, reply, { dialect: NATIVE, keepaliveMs });
    if (stream === undefined) return reply;
    await streams.run(stream, async () => {
      await stream.write(NATIVE.open());
      const ended = await Promise.all(unfinished.map((id) => pump(id, { request, stream, cursors })));
      if (ended.every((reached) => reached)) stream.end();
    });
    return reply;
  }

  /** One stream's events into the response they share. @returns whether its terminal event was the last of them */
  async function pump(
    id: string,
    { request, stream, cursors }: { request: FastifyRequest; stream: ResponseStream; cursors: Cursors },
  ): Promise<boolean> {
    let last = '';
    try {
      const events = client.follow(id, { tenant: request.tenant, after: cursors.of(id), signal: stream.signal });
      for await (const event of events) {
        cursors.moveTo(id, event);
        // Written before anything else runs: the cursors it brings are those of this very moment.
        if (!(await stream.write(frameOf(id, event, cursors.toString())))) return false;
        last = event.event.type;
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
}

/** Where a reader stands in each of its streams. */
class Cursors {
  readonly ids: readonly string[];
  readonly #keys: ReadonlyMap<string, string>;
  /** Tokens as the streams gave them; absent: from the start. */
  readonly #tokens = new Map<string, string>();

  /** @throws OncefleetError CURSOR_INVALID */
  constructor(ids: readonly string[], text: string | undefined) {
    this.ids = ids;
    this.#keys = keysOf(ids);
    if (text === undefined) return;
    const idByKey = new Map([...this.#keys].flatMap(([id, key]) => [[key, id] as const, [id, id] as const]));
    for (const pair of text.split(',')) {
      const [, key, token] = /^([0-9a-f-]{12,36})=([^,=]+)$/.exec(pair) ?? [];
      if (key === undefined || token === undefined)
        throw new OncefleetError('CURSOR_INVALID', 'A cursor of several streams is an `id` that this route gave');
      readCursor(token);
      // A page may have closed one of its streams: what it knew of that one does no harm.
      const id = idByKey.get(key);
      if (id !== undefined) this.#tokens.set(id, token);
    }
  }

  of(id: string): ReturnType<typeof readCursor> {
    return readCursor(this.#tokens.get(id));
  }

  moveTo(id: string, event: StreamEvent): void {
    // A reader that loses its connection right after a rewind needs it again.
    if (event.event.type !== 'rewind') this.#tokens.set(id, cursorOf(event));
  }

  toString(): string {
    return [...this.#tokens].map(([id, token]) => `${this.#keys.get(id)}=${token}`).join(',');
  }
}

/** The last group of each id, which is random; whole ids where two of them share it. */
function keysOf(ids: readonly string[]): Map<string, string> {
  const groups = ids.map((id) => id.slice(-12));
  const unique = new Set(groups).size === groups.length;
  return new Map(ids.map((id, i) => [id, unique ? (groups[i] as string) : id]));
}

/** @throws InputInvalidError */
function readStreamIds(text: string): string[] {
  // Where each stands first: one bad id over and over is one issue.
  const places = new Map<string, number>();
  for (const [i, part] of text.split(',').entries()) {
    const id = part.toLowerCase();
    if (id !== '' && !places.has(id)) places.set(id, i);
  }
  if (places.size === 0 || places.size > MAX_STREAMS) {
    throw new InputInvalidError('Query', [
      { path: 'streams', message: `expected 1 to ${MAX_STREAMS} ids of jobs with commas between, not ${places.size}` },
    ]);
  }
  const issues = [...places].flatMap(([id, i]) =>
    isUuid(id) ? [] : [{ path: `streams[${i}]`, message: 'expected the id of a job, a UUID' }],
  );
  if (issues.length > 0) throw new InputInvalidError('Query', issues);
  return [...places.keys()];
}

function frameOf(stream: string, event: StreamEvent, cursor: string): string {
  const { seq, fence, json } = event;
  const data = `{"stream":"${stream}","seq":${seq},"fence":${fence},"event":${json}}`;
  const { type } = event.event;
  return formatFrame({ ...(type === 'rewind' ? {} : { id: cursor }), event: type, data });
}
