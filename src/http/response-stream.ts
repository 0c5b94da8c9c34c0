/** Responses that last: a body of frames, written as its reader takes it. */
import type { ServerResponse } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { OncefleetError } from '../errors.ts';
import type { ByteBudget, Hold } from './byte-budget.ts';
import type { Dialect, Unavailability } from './dialects/dialect.ts';
import type { Frames } from './frames.ts';

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

interface ResponseStreamOptions {
  dialect: Dialect;
  /** A keepalive is sent when a stream was quiet this long. */
  keepaliveMs: number;
  /** What its reader has not taken is counted there. */
  budget: ByteBudget;
  account: string;
}

/**
 * Tells a client to connect again later, in a dialect that can: with a 200, because an EventSource takes
 * anything else as a reason to give up.
 *
 * @throws the cause, in a dialect that leaves this to a status
 */
export function refuseForNow(
  request: FastifyRequest,
  reply: FastifyReply,
  { dialect, code, cause }: { dialect: Dialect; code: Unavailability; cause?: unknown },
): FastifyReply {
  const frame = dialect.unavailable(code);
  if (frame === undefined) throw cause ?? new OncefleetError(code, 'This process is closing; try again');
  reply.hijack();
  reply.raw.writeHead(200, { ...outgoingHeaders(reply), ...SSE_HEADERS, ...dialect.headers, connection: 'close' });
  reply.raw.end(request.method === 'HEAD' ? undefined : frame);
  return reply;
}

/** The response of a stream that is about to start. `undefined` for HEAD, which is answered. */
export function startResponse(
  request: FastifyRequest,
  reply: FastifyReply,
  options: ResponseStreamOptions,
): ResponseStream | undefined {
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { ...outgoingHeaders(reply), ...SSE_HEADERS, ...options.dialect.headers });
  if (request.method !== 'HEAD') return new ResponseStream(raw, options);
  raw.end();
  return undefined;
}

/**
 * One streamed response: writes wait for the reader, quiet is filled with keepalives.
 *
 * Frames of one turn of the event loop go out as one chunk: a batch of events comes in one
 * message, and a chunk of its own for each frame would cost more than everything else.
 *
 * A response that was not ended by `end()` or a drain is destroyed: clients take a clean
 * end for success.
 */
export class ResponseStream {
  readonly closed: Promise<void>;
  readonly #raw: ServerResponse;
  readonly #dialect: Dialect;
  readonly #abort = new AbortController();
  #state: 'open' | 'draining' | 'ended' = 'open';
  readonly #keepalive: NodeJS.Timeout;
  /** Frames that wait for the end of this turn. */
  #text = '';
  #sending: NodeJS.Immediate | undefined;
  /** The reader has no room. */
  #choked = false;
  readonly #hold: Hold;
  readonly #share: (bytes: Uint8Array) => () => void;
  /** Ends the count of shared bytes that the reader has not taken. */
  #unshare: (() => void) | undefined;

  constructor(raw: ServerResponse, options: ResponseStreamOptions) {
    this.#raw = raw;
    this.#dialect = options.dialect;
    const { budget, account } = options;
    this.#hold = budget.open(account);
    this.#share = (bytes) => budget.share(bytes, account);
    this.#keepalive = setTimeout(() => this.#keepAlive(), options.keepaliveMs);
    this.closed = new Promise((resolve) => {
      const onClose = () => {
        this.#stopTimers();
        this.#taken();
        this.#hold.close();
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
      this.#taken();
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
    if (this.#choked && !this.signal.aborted) {
      this.#unshare?.();
      this.#unshare = this.#share(frames.bytes);
    }
    this.#keepalive.refresh();
    return !this.#choked || this.#room();
  }

  /** Everything was sent. */
  end(lastFrames = ''): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    this.#text += lastFrames;
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
      const frame = this.#dialect.unavailable();
      if (frame === undefined) this.#raw.destroy();
      else this.#raw.end(frame);
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
    if (this.#choked && !this.#raw.destroyed) this.#hold.set(this.#raw.writableLength);
    this.#keepalive.refresh();
  }

  /** The reader has all that was written, or is gone. */
  #taken(): void {
    this.#hold.set(0);
    this.#unshare?.();
    this.#unshare = undefined;
  }

  #keepAlive(): void {
    // A reader with frames still to come is not quiet, and one that takes none shall not be sent more.
    if (this.#choked) this.#keepalive.refresh();
    else void this.write(this.#dialect.keepalive);
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

/** Headers set so far (request id, CORS), which a hijacked reply would leave out. */
function outgoingHeaders(reply: FastifyReply): Record<string, string | number | string[]> {
  const headers: Record<string, string | number | string[]> = {};
  for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) headers[name] = value;
  return headers;
}
