/**
 * The connections of the server, and what each may make the process hold.
 *
 * A connection has one request in progress. What was pipelined behind it waits until its answer has been
 * handed to the kernel, and the socket is not read meanwhile: so a client that reads nothing holds one answer,
 * however much it asks for. A request that does not arrive, and an answer that is not read, end in time;
 * event streams are answers like others here, and a quiet one is not an unread one.
 */
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export interface ConnectionLimits {
  /** For the headers of a request to arrive, in milliseconds. */
  headersMs: number;
  /** For the whole request to arrive, in milliseconds; a stalled body is given up earlier (`readBody`). */
  requestMs: number;
  /** An answer of which the client took nothing for this long is given up with its connection, in milliseconds. */
  unreadMs: number;
  /** While the process drains, the same for requests that do not arrive and answers that are not read, in milliseconds. */
  drainMs: number;
  /** Pipelined requests of all connections that may wait; each takes a few KB. */
  maxWaiting: number;
}

export const CONNECTION_LIMITS: Readonly<ConnectionLimits> = {
  headersMs: 20_000,
  requestMs: 60_000,
  unreadMs: 30_000,
  drainMs: 3_000,
  maxWaiting: 10_000,
};

/** How often Node looks for requests that do not arrive. */
const CHECK_MS = 5_000;
/** How often a drain looks for clients that it need not wait for. */
const DRAIN_CHECK_MS = 250;
/** Proxies keep their idle connections for a minute; ours live longer, so that the proxy is the one that closes. */
const KEEP_ALIVE_MS = 72_000;

interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
}

interface Connection {
  current: Exchange | undefined;
  /** Pipelined behind it, in order. */
  waiting: Exchange[];
  /** It pipelined more than may wait: what is not waiting yet is not answered, and the connection then closes. */
  full: boolean;
  /** Drain only: since when it waits for its client. */
  stuckSince: number | undefined;
}

export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #open = new Map<Socket, Connection>();
  #waiting = 0;
  #drain: NodeJS.Timeout | undefined;

  constructor(limits: Partial<ConnectionLimits> = {}) {
    this.#limits = { ...CONNECTION_LIMITS, ...limits };
  }

  /** A server whose requests are given to the listener one at a time a connection. */
  createServer(listener: RequestListener): Server {
    const { headersMs, requestMs, unreadMs } = this.#limits;
    const server = createServer({
      headersTimeout: Math.min(headersMs, requestMs),
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(CHECK_MS, headersMs, requestMs),
      keepAliveTimeout: KEEP_ALIVE_MS,
    });
    server.on('connection', (socket) => this.#add(socket));
    server.on('request', (request, response) => this.#accept({ request, response }, listener));
    server.setTimeout(unreadMs, (socket: Socket) => this.#onQuiet(socket));
    server.on('close', () => clearInterval(this.#drain));
    return server;
  }

  /** Whether an error of the client's can still be answered: nothing else is being answered on its connection. */
  canAnswer(socket: Socket): boolean {
    const current = this.#open.get(socket)?.current;
    return socket.writable && (current === undefined || !(current.request.complete || current.response.headersSent));
  }

  /**
   * Ends connections that no request is in progress on, now and from now on. Those in progress are answered;
   * one that waits for its client alone is cut off after a moment.
   */
  drain(): void {
    if (this.#drain !== undefined) return;
    this.#drain = setInterval(() => this.#cutStuck(), DRAIN_CHECK_MS);
    this.#drain.unref();
    for (const [socket, { current }] of this.#open) if (current === undefined) socket.destroy();
    this.#cutStuck();
  }

  #add(socket: Socket): void {
    if (this.#drain !== undefined) {
      socket.destroy();
      return;
    }
    const connection: Connection = { current: undefined, waiting: [], full: false, stuckSince: undefined };
    this.#open.set(socket, connection);
    socket.once('close', () => {
      this.#open.delete(socket);
      this.#waiting -= connection.waiting.length;
      connection.waiting = [];
    });
  }

  #accept(exchange: Exchange, listener: RequestListener): void {
    const { socket } = exchange.request;
    const connection = this.#open.get(socket);
    if (connection === undefined) return;
    if (connection.current === undefined && connection.waiting.length === 0) {
      this.#start(socket, connection, exchange, listener);
    } else if (connection.full || this.#waiting >= this.#limits.maxWaiting) {
      connection.full = true;
      socket.pause();
    } else {
      connection.waiting.push(exchange);
      this.#waiting++;
      socket.pause();
    }
  }

  #start(socket: Socket, connection: Connection, exchange: Exchange, listener: RequestListener): void {
    connection.current = exchange;
    if (connection.full && connection.waiting.length === 0) exchange.response.setHeader('connection', 'close');
    // After its bytes have been handed to the kernel, or with the connection.
    exchange.response.once('close', () => {
      connection.current = undefined;
      connection.stuckSince = undefined;
      if (connection.waiting.length > 0) {
        // In a turn of its own: a long pipeline must not keep others from theirs.
        setImmediate(() => this.#startNext(socket, connection, listener));
      } else if (connection.full || this.#drain !== undefined) socket.destroySoon();
      else socket.resume();
    });
    listener(exchange.request, exchange.response as Parameters<RequestListener>[1]);
  }

  #startNext(socket: Socket, connection: Connection, listener: RequestListener): void {
    const next = connection.waiting.shift();
    if (next === undefined) return;
    this.#waiting--;
    // The rest of the last one's body may still have to come.
    if (connection.waiting.length === 0 && !connection.full) socket.resume();
    this.#start(socket, connection, next, listener);
  }

  /** Nothing was read from this socket and nothing written to it for `unreadMs`. */
  #onQuiet(socket: Socket): void {
    const current = this.#open.get(socket)?.current;
    if (current === undefined || isUnread(socket, current)) socket.destroy();
    // Its handler is busy, its events are few, or its body is late, which has limits of its own.
    else socket.setTimeout(this.#limits.unreadMs);
  }

  #cutStuck(): void {
    const now = performance.now();
    for (const [socket, connection] of this.#open) {
      const { current } = connection;
      const stuck = current !== undefined && (!current.request.complete || isUnread(socket, current));
      if (!stuck) connection.stuckSince = undefined;
      else if (connection.stuckSince === undefined) connection.stuckSince = now;
      else if (now - connection.stuckSince >= this.#limits.drainMs) socket.destroy();
    }
  }
}

function isUnread(socket: Socket, { response }: Exchange): boolean {
  return response.headersSent && socket.writableLength > 0;
}
