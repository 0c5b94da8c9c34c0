/** The events of a job: server-sent events for who asks for them, else a JSON page. */
import type { ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import type { EventPage } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import type { EventRun } from '../journal/batches.ts';
import { type Cursor, parseCursor } from '../journal/cursor.ts';
import { isTerminalType, type StreamEvent } from '../journal/event.ts';
import { readJobId } from './jobs.ts';
import { isStoreUnavailable, loggableError, problemResponses } from './problem.ts';
import { eventPage, eventsHeaders, eventsQuery, jobIdParams } from './schemas.ts';
import { formatFrame, formatRetry, KEEPALIVE_FRAME } from './sse.ts';

/** EventSource's own default is several seconds; a cut stream should resume at once. */
export const RECONNECT_MS = 1_000;
/** While this process drains, or Postgres is away: give them time. */
const RECONNECT_LATER_MS = 5_000;
const DEFAULT_PAGE_EVENTS = 100;
/** How long a drain waits for a reader that takes nothing before its socket is destroyed, ms. */
const DRAIN_GRACE_MS = 2_000;

/** Characters of frames that are sent without waiting for more. */
const CHUNK_LENGTH = 16 * 1024;

/** Fewer characters of frames are gathered with what else the turn brings; more are sent as shared bytes. */
const SHARED_LENGTH = 2 * 1024;

/** A proxy must neither buffer nor transform; clients compare the content type exactly. */
const SSE_HEADERS = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
  'x-content-type-options': 'nosniff',
} as const;

export interface StreamRoutesOptions {
  client: JobClient;
  streams: OpenStreams;
  /** A comment is sent when a stream was quiet this long, ms. */
  keepaliveMs: number;
}

export async function streamRoutes(instance: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  const { client, streams } = options;
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/jobs/:id/events',
    {
      config: { queryToken: true, duringDrain: true },
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
            'JOB_NOT_FOUND',
            'STREAM_EXPIRED',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      reply.header('vary', 'accept');
      const sse = wantsEventStream(request);
      if (streams.draining) {
        if (sse) return refuseForNow(request, reply, 'SHUTTING_DOWN');
        throw new OncefleetError('SHUTTING_DOWN', 'This process is closing; try again');
      }
      const id = readJobId(request.params.id);
      const after = readCursor(request.headers['last-event-id'], request.query.after, request.query.lastEventId);
      if (sse) return openStream(options, { id, after, request, reply });
      const { limit = DEFAULT_PAGE_EVENTS, wait = 0 } = request.query;
      const page = await readPage(options, {
        id,
        after,
        limit,
        waitMs: wait * 1_000,
        tenant: request.tenant,
        raw: reply.raw,
      });
      reply.header('cache-control', 'no-store').type('application/json');
      // The text is ready: events go out as the journal holds them, unparsed.
      return reply.send(formatPage(page) as never);
    },
  );

  /** Decides the status while it still can, then streams. */
  async function openStream(
    { keepaliveMs }: StreamRoutesOptions,
    { id, after, request, reply }: { id: string; after: Cursor; request: FastifyRequest; reply: FastifyReply },
  ): Promise<FastifyReply> {
    const { tenant } = request;
    let page: EventPage;
    try {
      page = await client.readEvents(id, { tenant, after, limit: 1 });
    } catch (error) {
      // An EventSource never comes back after a 503.
      if (isStoreUnavailable(error)) return refuseForNow(request, reply, 'STORE_UNAVAILABLE');
      throw error;
    }
    if (page.finished && page.events.length === 0) return reply.code(204).send();
    if (streams.draining) return refuseForNow(request, reply, 'SHUTTING_DOWN');
    const stream = startResponse(request, reply, keepaliveMs);
    if (stream === undefined) return reply;
    await streams.run(stream, async () => {
      await stream.write(formatRetry(RECONNECT_MS));
      let last = '';
      try {
        for await (const run of client.followRuns(id, { tenant, after, signal: stream.signal })) {
          const type = await sendRun(run, stream);
          if (type === undefined) return;
          if (type !== '') last = type;
        }
        // Not at the first terminal type: a failed job that was redriven has an `error` in the middle.
        if (isTerminalType(last)) stream.end();
        else if (!stream.signal.aborted) request.log.warn({ jobId: id }, 'follower ended before the terminal event');
      } catch (error) {
        if (!stream.signal.aborted) request.log.warn({ jobId: id, err: loggableError(error) }, 'follower failed');
      }
    });
    return reply;
  }
}

/** 200, because an EventSource takes anything else as a reason to give up. */
export function refuseForNow(
  request: FastifyRequest,
  reply: FastifyReply,
  code: 'SHUTTING_DOWN' | 'STORE_UNAVAILABLE',
): FastifyReply {
  reply.hijack();
  reply.raw.writeHead(200, { ...outgoingHeaders(reply), ...SSE_HEADERS, connection: 'close' });
  reply.raw.end(request.method === 'HEAD' ? undefined : formatRetry(RECONNECT_LATER_MS, code));
  return reply;
}

/** The response of a stream that is about to start. `undefined` for HEAD, which is answered. */
export function startResponse(
  request: FastifyRequest,
  reply: FastifyReply,
  keepaliveMs: number,
): ResponseStream | undefined {
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { ...outgoingHeaders(reply), ...SSE_HEADERS });
  if (request.method !== 'HEAD')
    return new ResponseStream(raw, { keepaliveMs, retryFrame: formatRetry(RECONNECT_LATER_MS) });
  raw.end();
  return undefined;
}

/**
 * Every streamed response of this process, so that a drain can end them all.
 */
export class OpenStreams {
  readonly #open = new Map<ResponseStream, Promise<void>>();
  readonly #drain = new AbortController();

  get draining(): boolean {
    return this.#drain.signal.aborted;
  }

  /** Aborts when the drain starts. */
  get drainSignal(): AbortSignal {
    return this.#drain.signal;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Runs a pump for a stream; whatever way it ends, the response is ended or destroyed. */
  async run(stream: ResponseStream, pump: () => Promise<void>): Promise<void> {
    const done = pump().finally(() => stream.settle());
    this.#open.set(stream, done);
    if (this.draining) stream.drain();
    try {
      await done;
      await stream.closed;
    } finally {
      this.#open.delete(stream);
    }
  }

  /** Tells every reader to come back later; readers that take nothing are cut off after a moment. */
  async drain(): Promise<void> {
    this.#drain.abort();
    const streams = [...this.#open.keys()];
    for (const stream of streams) stream.drain();
    const grace = setTimeout(() => {
      for (const stream of streams) stream.destroy();
    }, DRAIN_GRACE_MS);
    await Promise.allSettled(streams.map((stream) => stream.closed));
    clearTimeout(grace);
  }
}

/**
 * One streamed response: writes wait for the reader, quiet is filled with keepalives.
 *
 * Frames of one turn of the event loop go out as one chunk: a run of events comes in one
 * message, and a chunk of its own for each frame would cost more than everything else.
 *
 * A response that was not ended by `end()` or a drain is destroyed: clients take a clean
 * end for success.
 */
export class ResponseStream {
  readonly closed: Promise<void>;
  readonly #raw: ServerResponse;
  readonly #retryFrame: string;
  readonly #abort = new AbortController();
  #state: 'open' | 'draining' | 'ended' = 'open';
  readonly #keepalive: NodeJS.Timeout;
  /** Frames that wait for the end of this turn. */
  #text = '';
  #sending: NodeJS.Immediate | undefined;
  /** The reader has no room. */
  #choked = false;

  constructor(raw: ServerResponse, options: { keepaliveMs: number; retryFrame: string }) {
    this.#raw = raw;
    this.#retryFrame = options.retryFrame;
    this.#keepalive = setTimeout(() => this.#keepAlive(), options.keepaliveMs);
    this.closed = new Promise((resolve) => {
      const onClose = () => {
        this.#stopTimers();
        this.#abort.abort();
        resolve();
      };
      if (raw.destroyed || raw.socket?.destroyed === true) onClose();
      else raw.once('close', onClose).once('finish', onClose);
    });
    // A broken pipe is followed by `close`, which is what counts.
    raw.on('error', () => {});
    raw.on('drain', () => {
      this.#choked = false;
    });
    raw.flushHeaders();
  }

  /** Aborts when the reader is gone or the process drains. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Whether there is use in writing more; resolves once the reader has room again. */
  write(text: string): boolean | Promise<boolean> {
    if (this.signal.aborted) return false;
    this.#text += text;
    if (this.#text.length >= CHUNK_LENGTH) this.#send();
    else this.#sending ??= setImmediate(() => this.#send());
    return !this.#choked || this.#room();
  }

  /** As `write`. Many frames go out as the bytes that all their readers share. */
  writeFrames(frames: Frames): boolean | Promise<boolean> {
    const { text } = frames;
    if (text.length < SHARED_LENGTH) return this.write(text);
    if (this.signal.aborted) return false;
    this.#send();
    frames.bytes ??= Buffer.from(text);
    this.#choked = !this.#raw.write(frames.bytes);
    this.#keepalive.refresh();
    return !this.#choked || this.#room();
  }

  /** Everything was said. */
  end(): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#send();
    this.#stopTimers();
    this.#raw.end();
  }

  /** Stops the pump; the reader is told to come back. */
  drain(): void {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    this.#abort.abort();
  }

  destroy(): void {
    this.#stopTimers();
    this.#raw.destroy();
  }

  /** The pump is over: ends or destroys what is still open. */
  settle(): void {
    if (this.#state === 'draining') {
      this.#send();
      this.#raw.end(this.#retryFrame);
    } else if (this.#state === 'open') this.#raw.destroy();
    this.#stopTimers();
    this.#state = 'ended';
  }

  #send(): void {
    clearImmediate(this.#sending);
    this.#sending = undefined;
    if (this.#text === '') return;
    const text = this.#text;
    this.#text = '';
    this.#choked = !this.#raw.write(text);
    this.#keepalive.refresh();
  }

  #keepAlive(): void {
    // A reader with frames still to come is not quiet, and one that takes none shall not be sent more.
    if (this.#choked) this.#keepalive.refresh();
    else void this.write(KEEPALIVE_FRAME);
  }

  #stopTimers(): void {
    clearTimeout(this.#keepalive);
    clearImmediate(this.#sending);
    this.#sending = undefined;
  }

  #room(): Promise<boolean> {
    return new Promise((resolve) => {
      const done = () => {
        this.#raw.off('drain', done);
        this.signal.removeEventListener('abort', done);
        resolve(!this.signal.aborted);
      };
      this.#raw.on('drain', done);
      this.signal.addEventListener('abort', done);
    });
  }
}

/**
 * A function of its own, so that a reader of a quiet stream holds nothing of what it was sent.
 *
 * @returns the type of the last event, empty where there was none; undefined when there is no use in sending more
 */
async function sendRun(run: EventRun, stream: ResponseStream): Promise<string | undefined> {
  const { source } = run;
  if (source !== undefined) {
    const frames = framesOf(source, run);
    return (await stream.writeFrames(frames)) ? frames.lastType : undefined;
  }
  let last = '';
  for (const event of run) {
    last = event.event.type;
    const room = stream.write(frameOf(event));
    if (room !== true && !(await room)) return undefined;
  }
  return last;
}

/** The frames of a run, made once for all its readers. */
interface Frames {
  readonly text: string;
  /** The text in UTF-8, once a reader has needed it. */
  bytes: Buffer | undefined;
  /** Events in them: fewer than the run has where one of it is none. */
  readonly count: number;
  /** Of its last event; empty where there is none. */
  readonly lastType: string;
}

const framesBySource = new WeakMap<object, Frames>();

/** Takes the whole run. */
function framesOf(source: object, run: EventRun): Frames {
  const made = framesBySource.get(source);
  if (made !== undefined) {
    run.skip(made.count);
    return made;
  }
  let text = '';
  let count = 0;
  let lastType = '';
  for (const event of run) {
    text += frameOf(event);
    count++;
    lastType = event.event.type;
  }
  const frames = { text, bytes: undefined, count, lastType };
  framesBySource.set(source, frames);
  return frames;
}

function frameOf(event: StreamEvent): string {
  const { type } = event.event;
  // A rewind is not in the journal: with an id it would be where a reader goes on.
  return formatFrame({ ...(type === 'rewind' ? {} : { id: cursorOf(event) }), event: type, data: event.json });
}

/** What a reader that has this event goes on after. */
export function cursorOf(event: StreamEvent): string {
  return String(event.cursor);
}

function wantsEventStream(request: FastifyRequest): boolean {
  const accept = request.headers.accept ?? '';
  return accept.split(',').some((range) => /^text\/event-stream(?!.*;\s*q=0(\.0*)?\s*$)/i.test(range.trim()));
}

/**
 * The reader's cursor. The header wins: a reconnecting EventSource still has the cursor of
 * its first connect in its URL.
 *
 * @throws OncefleetError CURSOR_INVALID
 */
export function readCursor(...candidates: (string | undefined)[]): Cursor {
  const cursor = candidates.find((text) => text !== undefined && text !== '');
  if (cursor === undefined) return -1;
  const { seq, fence } = parseCursor(cursor);
  return fence === undefined ? seq : cursor;
}

async function readPage(
  { client, streams }: StreamRoutesOptions,
  ask: { id: string; after: Cursor; limit: number; waitMs: number; tenant: string; raw: ServerResponse },
): Promise<EventPage> {
  const { id, after, limit, tenant } = ask;
  const page = await client.readEvents(id, { tenant, after, limit });
  if (page.events.length > 0 || page.finished || ask.waitMs === 0) return page;
  const first = await firstEvent({ client, streams }, ask);
  if (first === undefined) return page;
  const later = await client.readEvents(id, { tenant, after, limit });
  // The journal may have been cut short meanwhile.
  return later.events.length > 0
    ? later
    : { events: [first], next: first.seq, finished: isTerminalType(first.event.type) };
}

/** The next event, or `undefined` when there was none in time. */
async function firstEvent(
  { client, streams }: Pick<StreamRoutesOptions, 'client' | 'streams'>,
  {
    id,
    after,
    tenant,
    waitMs,
    raw,
  }: { id: string; after: Cursor; tenant: string; waitMs: number; raw: ServerResponse },
): Promise<StreamEvent | undefined> {
  const give = new AbortController();
  const up = () => give.abort();
  const timer = setTimeout(up, waitMs);
  raw.once('close', up);
  streams.drainSignal.addEventListener('abort', up);
  if (streams.draining) up();
  try {
    for await (const event of client.follow(id, { tenant, after, committed: true, signal: give.signal })) return event;
    return undefined;
  } catch (error) {
    if (give.signal.aborted) return undefined;
    throw error;
  } finally {
    clearTimeout(timer);
    raw.off('close', up);
    streams.drainSignal.removeEventListener('abort', up);
  }
}

function formatPage({ events, next, finished }: EventPage): string {
  const items = events.map(({ seq, fence, json }) => `{"seq":${seq},"fence":${fence},"event":${json}}`);
  return `{"events":[${items.join(',')}],"next":${JSON.stringify(next)},"finished":${finished}}`;
}

/** Headers set so far (request id, CORS), which a hijacked reply would leave out. */
function outgoingHeaders(reply: FastifyReply): Record<string, string | number | string[]> {
  const headers: Record<string, string | number | string[]> = {};
  for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) headers[name] = value;
  return headers;
}
