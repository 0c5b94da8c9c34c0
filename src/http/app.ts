/**
 * The HTTP face of a fleet, built but not listening, so that tests inject requests.
 *
 * `app.close()` drains: streams are told to reconnect elsewhere, requests that still come
 * are refused, and the promise resolves when the last one is answered. The client stays
 * open; who made it closes it.
 */
import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import swagger from '@fastify/swagger';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyRequest, LogController } from 'fastify';
import type { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import type { Config } from '../config.ts';
import { InputInvalidError, OncefleetError, toIssues } from '../errors.ts';
import type { Logger } from '../log.ts';
import { createTokenAuth } from './auth.ts';
import { BOARD_PATH, boardRoutes } from './board.ts';
import { createCors } from './cors.ts';
import { healthRoutes } from './health.ts';
import { jobRoutes } from './jobs.ts';
import { multiStreamRoutes } from './multi-stream.ts';
import { OpenStreams } from './open-streams.ts';
import { openApiOptions } from './openapi.ts';
import { PROBLEM_CONTENT_TYPE, sendProblem, toProblem } from './problem.ts';
import { redriveRoutes } from './redrive.ts';
import { SilentSockets } from './silent-sockets.ts';
import { streamRoutes } from './stream-routes.ts';

/** Proxies commonly cut connections that were quiet for 30 to 60 s. */
const KEEPALIVE_MS = 15_000;
/** Longest path parameter; a longer one than any id or name still gets its own error. */
const MAX_PARAM_LENGTH = 500;
/** A caller's own id is kept if it is short and safe to log. */
const REQUEST_ID = /^[\w.:/+=@-]{1,128}$/;
const API_VERSION = '1';

export interface CreateAppOptions {
  client: JobClient;
  log: Logger;
  config: Pick<Config, 'tokens' | 'adminToken' | 'tenant' | 'bodyLimitBytes'>;
  /** A stream that was quiet this long gets a comment, ms. Default 15 s. */
  keepaliveMs?: number;
  /** Bull Board at /admin/queues. Default true. */
  board?: boolean;
}

export function createApp({
  client,
  log,
  config,
  keepaliveMs = KEEPALIVE_MS,
  board = true,
}: CreateAppOptions): FastifyInstance {
  const streams = new OpenStreams();
  const app = Fastify({
    loggerInstance: log as FastifyBaseLogger,
    // Fastify's own lines have the URL with its query, where tokens and keys are.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    genReqId: (request) => {
      const given = request.headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
    bodyLimit: config.bodyLimitBytes,
    // Requests that come while it drains are answered by us: streams in their own way.
    return503OnClosing: false,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    frameworkErrors: (error, request, reply) => sendProblem(error, request as FastifyRequest, reply),
    clientErrorHandler: refuseMalformed,
  });
  const routes = new RouteTable();

  app.setValidatorCompiler<z.ZodType>(({ schema, httpPart }) => {
    // Bodies are inputs of jobs, checked where every enqueue is. (Fastify would also turn a missing one into null.)
    if (httpPart === 'body') return () => true;
    return (data: unknown) => {
      const parsed = schema.safeParse(data);
      if (parsed.success) return { value: parsed.data };
      return { error: new InputInvalidError(PART_NAMES[httpPart ?? ''] ?? 'Request', toIssues(parsed.error.issues)) };
    };
  });
  // Response schemas are documentation: a test holds the answers to them, requests don't pay for it.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, parseJson);

  app.decorateRequest('tenant', '');
  app.addHook('onRoute', ({ method, url }) => routes.add(method, url));
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id);
    done();
  });
  app.addHook('onRequest', createCors(['/v1/', '/openapi.json', '/healthz', '/readyz']));
  app.addHook('onRequest', (request, reply, done) => {
    if (!streams.draining || request.routeOptions.config.duringDrain === true) done();
    else sendProblem(new OncefleetError('SHUTTING_DOWN', 'This process is closing; try again'), request, reply);
  });
  app.addHook('onSend', (_request, reply, payload, done) => {
    // A request in flight since before the drain would leave its connection idle, and the server waits for those.
    if (streams.draining) reply.header('connection', 'close');
    done(null, payload);
  });
  app.addHook('onResponse', (request, reply, done) => {
    const { url: route, config: routeConfig } = request.routeOptions;
    // Probes and the board's polling would bury the rest.
    const level = routeConfig.quiet === true || route?.startsWith(BOARD_PATH) === true ? 'debug' : 'info';
    // The route and not the URL, whose query may hold a token or a key.
    request.log[level](
      {
        method: request.method,
        route,
        status: reply.statusCode,
        durationMs: Math.round(reply.elapsedTime),
        ...(request.tenant === '' ? {} : { tenant: request.tenant }),
      },
      'request',
    );
    done();
  });
  const silentSockets = new SilentSockets(app.server);
  app.addHook('preClose', async () => {
    await streams.drain();
    silentSockets.destroy();
  });
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));
  app.setNotFoundHandler((request, reply) => {
    const path = (request.raw.url ?? '').split('?', 1)[0] as string;
    const allowed = routes.methodsOf(path);
    if (allowed.length === 0)
      throw new OncefleetError('ROUTE_NOT_FOUND', `No route ${request.method} ${path.slice(0, 200)}`);
    reply.header('allow', allowed.join(', '));
    throw new OncefleetError('METHOD_NOT_ALLOWED', `This path takes ${allowed.join(', ')}`);
  });

  app.register(swagger, openApiOptions({ version: API_VERSION, secured: config.tokens !== undefined }));
  app.register(async (root) => {
    root.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger());
    await root.register(healthRoutes, { client, streams });
    if (board) await root.register(boardRoutes, { prefix: BOARD_PATH, client, config });
    await root.register(
      async (api) => {
        api.addHook('onRequest', createTokenAuth(config));
        await api.register(jobRoutes, { client });
        await api.register(redriveRoutes, { client, streams });
        await api.register(streamRoutes, { client, streams, keepaliveMs });
        await api.register(multiStreamRoutes, { client, streams, keepaliveMs });
      },
      { prefix: '/v1' },
    );
  });
  return app;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers by itself while the process drains. */
    duringDrain?: boolean;
    /** Logged at debug level only. */
    quiet?: boolean;
  }
}

const PART_NAMES: Record<string, string> = { querystring: 'Query', params: 'Path', headers: 'Headers' };

/** Which methods a path has, for 405. */
class RouteTable {
  readonly #routes: { pattern: RegExp; methods: Set<string> }[] = [];

  add(method: string | string[], url: string): void {
    const source = url
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replace(/:[A-Za-z]+/g, '[^/]+')
      .replace(/\*/g, '.*');
    this.#routes.push({ pattern: new RegExp(`^${source}$`), methods: new Set([method].flat()) });
  }

  methodsOf(path: string): string[] {
    const methods = this.#routes.filter(({ pattern }) => pattern.test(path)).flatMap((route) => [...route.methods]);
    return [...new Set(methods)].sort();
  }
}

/**
 * The body as plain JSON. Not Fastify's parser: it refuses `__proto__` keys, which are data
 * like any other here.
 */
function parseJson(
  request: FastifyRequest,
  body: string | Buffer,
  done: (error: Error | null, body?: unknown) => void,
): void {
  const encoding = request.headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') {
    done(new OncefleetError('MEDIA_TYPE_UNSUPPORTED', 'Send the body without content-encoding'));
    return;
  }
  // An empty body is no body; the route knows whether it needs one.
  if (body.length === 0) {
    done(null, undefined);
    return;
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body as Buffer);
    done(null, JSON.parse(text));
  } catch (cause) {
    const why = cause instanceof SyntaxError ? cause.message : 'it is not UTF-8';
    done(new OncefleetError('BODY_INVALID', `The body is not valid JSON: ${why.slice(0, 200)}`));
  }
}

/** What came is not even HTTP, so there is no request to answer within Fastify. */
function refuseMalformed(this: FastifyInstance, error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const status = error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400;
  const problem = toProblem(new OncefleetError('BODY_INVALID', 'This is not a valid HTTP request'), randomUUID());
  const body = JSON.stringify({ ...problem, status });
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: ${PROBLEM_CONTENT_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
