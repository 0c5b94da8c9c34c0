/**
 * The HTTP face of a fleet, built but not listening, so that tests inject requests.
 *
 * `app.close()` drains: streams are told to reconnect elsewhere, requests that still come
 * are refused, and the promise resolves when the last one is answered. The client stays
 * open: the caller closes it.
 */
import { randomUUID } from 'node:crypto';
import swagger from '@fastify/swagger';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyRequest, LogController } from 'fastify';
import type { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { type Config, IN_FLIGHT_BYTES } from '../config.ts';
import { inputInvalid, OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { createTokenAuth } from './auth.ts';
import { BOARD_PATH, boardRoutes } from './board.ts';
import { BODY_STALL_MS, createBodyParser } from './body.ts';
import { bulkRoutes } from './bulk.ts';
import { ByteBudget } from './byte-budget.ts';
import { completionsRoutes } from './chat/completions.ts';
import { modelRoutes } from './chat/models-route.ts';
import { responsesRoutes } from './chat/responses.ts';
import { uiChatRoutes } from './chat/ui-chat.ts';
import { createClientErrorHandler } from './client-errors.ts';
import { collectionRoutes } from './collections.ts';
import { CONNECTION_LIMITS, type ConnectionLimits, Connections } from './connections.ts';
import type { ConsoleOptions } from './console/context.ts';
import { consoleRoutes } from './console/routes.ts';
import { createCors } from './cors.ts';
import { countRequests, createRoomCheck } from './counted-bytes.ts';
import { enqueueRoute } from './enqueue-route.ts';
import { healthRoutes } from './health.ts';
import { hideHosts } from './hidden-hosts.ts';
import { jobControlRoutes } from './job-controls.ts';
import { jobRoutes } from './jobs.ts';
import { createKeyHeader } from './key-header.ts';
import { type MetricsRouteOptions, metricsRoute } from './metrics.ts';
import { multiStreamRoutes } from './multi-stream.ts';
import { OpenStreams } from './open-streams.ts';
import { openApiOptions } from './openapi.ts';
import { createHostCheck, createOriginCheck, type OriginConfig } from './origins.ts';
import { sendProblem } from './problem.ts';
import { redriveRoutes } from './redrive.ts';
import { addressCaller, RequestLimits } from './request-limits.ts';
import { answerUnknownRoutes } from './route-table.ts';
import { securityHeaders } from './security-headers.ts';
import { streamRoutes } from './stream-routes.ts';
import { ticketRoute } from './ticket-route.ts';
import { uploadRoute } from './uploads.ts';

/** Proxies commonly cut connections that were quiet for 30 to 60 s. */
const KEEPALIVE_MS = 15_000;
/** Longest path parameter: the path of a document has up to 1,024 bytes, each of which may be percent-encoded. */
const MAX_PARAM_LENGTH = 3_100;
/** A caller's own id is kept if it is short and safe to log. */
const REQUEST_ID = /^[\w.:/+=@-]{1,128}$/;
const API_VERSION = '1';
/** What a slow link brings at the least, bytes in a second: the time for a request grows with the body that is allowed. */
const SLOWEST_BYTES_PER_S = 16 * 1024;

export interface CreateAppOptions {
  client: JobClient;
  log: Logger;
  config: Pick<Config, 'tokens' | 'adminToken' | 'tenant' | 'bodyLimitBytes'> &
    Partial<
      Pick<
        Config,
        | 'metricsToken'
        | 'inFlightBytes'
        | 'uploadLimitBytes'
        | 'uploadStoreBytes'
        | 'redactedFields'
        | 'requestsPerSecond'
        | 'streamsPerCaller'
        | 'trustedProxies'
      >
    > &
    OriginConfig;
  /** Served at /metrics. */
  metrics?: MetricsRouteOptions['metrics'] | undefined;
  /** A stream that was quiet this long gets a comment, in milliseconds. Default 15 s. */
  keepaliveMs?: number;
  /** The console at `/`, and Bull Board at /admin/queues. Default true. */
  board?: boolean;
  /** Looks for what is wrong, for the console. */
  doctor?: ConsoleOptions['doctor'];
  /** For tests: other limits of connections, and of the time that a body may stall, in milliseconds. */
  limits?: Partial<ConnectionLimits & { bodyStallMs: number }>;
}

type Routes = Required<Pick<CreateAppOptions, 'client' | 'config' | 'keepaliveMs' | 'board'>> & {
  metrics: CreateAppOptions['metrics'];
  doctor: CreateAppOptions['doctor'];
  stallMs: number;
  streams: OpenStreams;
  budget: ByteBudget;
  requestLimits: RequestLimits;
};

export function createApp({
  client,
  log,
  config,
  metrics,
  keepaliveMs = KEEPALIVE_MS,
  board = true,
  doctor,
  limits = {},
}: CreateAppOptions): FastifyInstance {
  const requestLimits = new RequestLimits(config);
  const streams = new OpenStreams(requestLimits);
  const budget = new ByteBudget(config.inFlightBytes ?? IN_FLIGHT_BYTES);
  const stallMs = limits.bodyStallMs ?? BODY_STALL_MS;
  // The largest request decides: Node has one limit for all. Bodies of other routes have limits of their own.
  const largest = Math.max(config.bodyLimitBytes, config.uploadLimitBytes ?? 0);
  const requestMs = CONNECTION_LIMITS.requestMs + (largest / SLOWEST_BYTES_PER_S) * 1_000;
  const connections = new Connections({ requestMs: Math.ceil(requestMs), ...limits });
  const app = Fastify({
    loggerInstance: log as FastifyBaseLogger,
    // Fastify's own lines have the URL with its query, where tokens and keys are.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    genReqId: (request) => {
      const given = request.headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
    serverFactory: (handler) => connections.createServer(handler),
    bodyLimit: config.bodyLimitBytes,
    // Of others `x-forwarded-for` says what its sender likes.
    trustProxy: config.trustedProxies === undefined ? false : [...config.trustedProxies],
    // Requests that come while it drains are answered by us: streams in their own way.
    return503OnClosing: false,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    // Such a request passes no hook.
    frameworkErrors: (error, request, reply) =>
      sendProblem(error, request as FastifyRequest, reply.header('x-request-id', request.id)),
    clientErrorHandler: createClientErrorHandler(connections),
  });
  app.setValidatorCompiler(compileValidator);
  // Response schemas are documentation: a test holds the answers to them, requests don't pay for it.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', createBodyParser(stallMs));
  app.decorateRequest('tenant', '');
  app.decorateRequest('caller', '');
  countRequests(app, budget);
  addHooks(app, streams, config, requestLimits);
  app.addHook('preClose', async () => {
    await streams.drain();
    connections.drain();
  });
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));
  answerUnknownRoutes(app);
  app.register(swagger, openApiOptions({ version: API_VERSION, secured: config.tokens !== undefined }));
  const routes = { client, config, metrics, doctor, keepaliveMs, board, streams, budget, stallMs, requestLimits };
  app.register((root) => registerRoutes(root, routes));
  return app;
}

/** What every request passes. */
function addHooks(
  app: FastifyInstance,
  streams: OpenStreams,
  config: CreateAppOptions['config'],
  limits: RequestLimits,
): void {
  const origins = config.corsOrigins ?? (config.tokens === undefined ? [] : ['*']);
  app.addHook('onRequest', (request, reply, done) => {
    request.caller = addressCaller(request.ip);
    reply.header('x-request-id', request.id);
    done();
  });
  app.addHook('onRequest', securityHeaders);
  app.addHook('onRequest', createHostCheck(config));
  app.addHook('onRequest', createCors(['/v1/', '/api/chat', '/openapi.json', '/healthz', '/readyz'], origins));
  app.addHook('onRequest', (request, reply, done) => {
    // What needs a token is counted once it is known whose it is; probes of a balancer must not be told to wait.
    const { anyHost = false, countedLater = false } = request.routeOptions.config;
    if (!anyHost && !countedLater) limits.count(request, reply);
    done();
  });
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
}

async function registerRoutes(root: FastifyInstance, routes: Routes): Promise<void> {
  const { client, config, metrics, keepaliveMs, board, streams, budget, stallMs, doctor } = routes;
  let document: Buffer | undefined;
  root.get('/openapi.json', { config: { sharedAnswer: true }, schema: { hide: true } }, async (_request, reply) => {
    // One for all: a text of its own for each answer is what unread ones would hold.
    document ??= Buffer.from(JSON.stringify(root.swagger()));
    return reply.type('application/json; charset=utf-8').send(document as never);
  });
  await root.register(healthRoutes, { client, streams });
  if (metrics !== undefined) await root.register(metricsRoute, { metrics, config, streams, budget });
  if (board) {
    await root.register(boardRoutes, { prefix: BOARD_PATH, client, config, budget });
    const hasBoard = config.tokens === undefined || config.adminToken !== undefined;
    await root.register(consoleRoutes, {
      client,
      config,
      streams,
      budget,
      keepaliveMs,
      stallMs,
      doctor,
      board: hasBoard,
    });
  }
  const guard = createGuard(root, routes);
  await root.register(
    async (api) => {
      guard(api);
      await api.register(enqueueRoute, { client });
      await api.register(bulkRoutes, { client });
      await api.register(jobRoutes, { client, budget });
      await api.register(jobControlRoutes, { client });
      await api.register(redriveRoutes, { client, streams });
      await api.register(ticketRoute, { client });
      await api.register(streamRoutes, { client, streams, keepaliveMs, budget });
      await api.register(collectionRoutes, { client, budget });
      await api.register(uploadRoute, { client, config, stallMs });
      await api.register(modelRoutes, { client });
      await api.register(completionsRoutes, { client, streams, keepaliveMs, budget });
      await api.register(responsesRoutes, { client, streams, keepaliveMs, budget });
      await api.register(multiStreamRoutes, { client, streams, keepaliveMs, budget });
    },
    { prefix: '/v1' },
  );
  await root.register(
    async (api) => {
      guard(api);
      await api.register(uiChatRoutes, { client, streams, keepaliveMs, budget, stallMs });
    },
    // Where the AI SDK looks for it unless it is told.
    { prefix: '/api/chat' },
  );
}

/** What a request of the API passes, before its route. */
function createGuard(
  root: FastifyInstance,
  { client, config, budget, requestLimits }: Routes,
): (api: FastifyInstance) => void {
  const auth = createTokenAuth(config, client, requestLimits);
  root.addHook('onClose', async () => auth.close());
  return (api) => {
    api.addHook('onRoute', (route) => {
      route.config = { ...route.config, countedLater: true };
    });
    if (config.tokens === undefined) api.addHook('onRequest', createOriginCheck(config.corsOrigins ?? []));
    api.addHook('onRequest', auth.hook);
    api.addHook('onRequest', createRoomCheck(budget, { tenants: config.tokens !== undefined }));
    api.addHook('preHandler', createKeyHeader(client));
    if (config.tokens !== undefined) api.addHook('preSerialization', hideHosts);
  };
}

const PART_NAMES: Record<string, string> = { querystring: 'Query', params: 'Path', headers: 'Headers' };

function compileValidator({ schema, httpPart }: { schema: z.ZodType; httpPart?: string | undefined }) {
  // Bodies are inputs of jobs, checked where every enqueue is. (Fastify would also turn a missing one into null.)
  if (httpPart === 'body') return () => true;
  return (data: unknown) => {
    const parsed = schema.safeParse(data);
    if (parsed.success) return { value: parsed.data };
    return { error: inputInvalid(PART_NAMES[httpPart ?? ''] ?? 'Request', parsed.error.issues) };
  };
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers by itself while the process drains. */
    duringDrain?: boolean;
    /** Its guard counts it for its caller. */
    countedLater?: boolean;
    /** Logged at debug level only. */
    quiet?: boolean;
  }
}
