/** Serves the metrics of a process that has no API: a worker. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { OncefleetError } from '../errors.ts';
import { isLoopback } from '../options.ts';
import type { Metrics } from './metrics.ts';

/** A scraper sends a line and a few headers; it holds one connection. */
const LIMITS = { maxConnections: 20, requestMs: 5_000, idleMs: 75_000, headerBytes: 8_192 };

interface ListenerOptions {
  metrics: Pick<Metrics, 'render' | 'contentType'>;
  host: string;
  /** 0 picks a free one. */
  port: number;
  /** What a scraper must send as `Authorization: Bearer`; undefined: nothing. */
  token: string | undefined;
}

export interface MetricsListener {
  readonly url: string;
  close(): Promise<void>;
}

/** @throws OncefleetError CONFIG_INVALID it cannot listen there */
export async function listenForMetrics(options: ListenerOptions): Promise<MetricsListener> {
  const { host, port } = options;
  const server = createServer(
    { maxHeaderSize: LIMITS.headerBytes, headersTimeout: LIMITS.requestMs, requestTimeout: LIMITS.requestMs },
    (request, response) => {
      void answer(request, response, options);
    },
  );
  server.maxConnections = LIMITS.maxConnections;
  server.keepAliveTimeout = LIMITS.idleMs;
  await listening(server, host, port);
  const { port: actual } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${actual}/metrics`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listening(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new OncefleetError('CONFIG_INVALID', `Cannot listen on ONCEFLEET_METRICS_HOST and _PORT: ${cause.message}`, {
          cause,
        }),
      ),
    );
    server.listen(port, host, resolve);
  });
}

async function answer(request: IncomingMessage, response: ServerResponse, options: ListenerOptions): Promise<void> {
  const { metrics, token, host } = options;
  const [path] = (request.url ?? '').split('?');
  if (path !== '/metrics') return end(response, 404, 'Metrics are at /metrics');
  if (request.method !== 'GET') return end(response, 405, 'GET alone');
  if (token === undefined ? !isNamed(request, host) : !isPresented(request, token)) {
    if (token === undefined) return end(response, 421, 'Without ONCEFLEET_METRICS_TOKEN loopback names alone');
    response.setHeader('www-authenticate', 'Bearer realm="oncefleet"');
    return end(response, 401, 'Send ONCEFLEET_METRICS_TOKEN as `Authorization: Bearer <token>`');
  }
  try {
    const text = await metrics.render();
    response.setHeader('content-type', metrics.contentType);
    end(response, 200, text);
  } catch {
    end(response, 500, 'The metrics could not be written');
  }
}

function end(response: ServerResponse, status: number, text: string): void {
  if (!response.hasHeader('content-type')) response.setHeader('content-type', 'text/plain; charset=utf-8');
  response.statusCode = status;
  response.end(`${text}\n`);
}

/** A page of a stranger that resolves a name of its own to this address (DNS rebinding) reads nothing. */
function isNamed({ headers }: IncomingMessage, host: string): boolean {
  if (!isLoopback(host)) return true;
  const name = (headers.host ?? '').replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
  return isLoopback(name);
}

/** Compares digests, so that the time taken tells nothing about the token. */
export function isPresented({ headers }: { headers: { authorization?: string | undefined } }, token: string): boolean {
  const presented = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1] ?? '';
  return timingSafeEqual(sha256(presented), sha256(token));
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
