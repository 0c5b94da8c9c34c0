/**
 * Which web pages may use this server, and under which names it may be reached.
 *
 * A browser sends what a page asks of it, from inside the network that the browser is in. Where a token is needed a page
 * has none, so CORS may be open. Without tokens the page's origin and the name it used are all that tells a
 * stranger's page from a person: a name of the stranger's own that leads here (DNS rebinding) is refused, and
 * so is a write of another origin, which needs no leave of CORS to be sent.
 */
import type { FastifyRequest, onRequestHookHandler } from 'fastify';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import { isLoopback } from '../options.ts';
import { sendProblem } from './problem.ts';

/** Methods that change nothing. */
const SAFE_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);

export type OriginConfig = Pick<Config, 'tokens'> & Partial<Pick<Config, 'host' | 'allowAnyone' | 'corsOrigins'>>;

/**
 * Refuses requests for a name that is none of this server's: HOST_UNKNOWN. With tokens, or where anyone may
 * call, every name is served, as behind a proxy.
 */
export function createHostCheck({ tokens, host, allowAnyone = false }: OriginConfig): onRequestHookHandler {
  if (tokens !== undefined || allowAnyone) return (_request, _reply, done) => done();
  return (request, reply, done) => {
    const name = nameIn(request.headers.host ?? request.headers[':authority']);
    if (request.routeOptions.config.anyHost === true || name === undefined || isLoopback(name) || name === host) {
      done();
      return;
    }
    sendProblem(
      new OncefleetError(
        'HOST_UNKNOWN',
        'Without tokens this server answers under loopback names and HOST alone; set ONCEFLEET_TOKENS, or ONCEFLEET_ALLOW_ANYONE=true',
      ),
      request,
      reply,
    );
  };
}

/**
 * Refuses requests that change something and that a page of another origin sent: ORIGIN_REFUSED.
 *
 * @param allowed origins that may all the same
 */
export function createOriginCheck(allowed: readonly string[]): onRequestHookHandler {
  return (request, reply, done) => {
    if (SAFE_METHODS.has(request.method) || !isForeign(request, allowed)) {
      done();
      return;
    }
    sendProblem(
      new OncefleetError('ORIGIN_REFUSED', 'A page of another origin may not change anything here'),
      request,
      reply,
    );
  };
}

/** No page can set either header: what sends neither is no browser, or an old one that sends no cross-origin write without. */
function isForeign({ headers }: FastifyRequest, allowed: readonly string[]): boolean {
  const { origin } = headers;
  if (origin !== undefined && allowed.includes(origin)) return false;
  const site = headers['sec-fetch-site'];
  // Behind a proxy the names may differ; the browser knows.
  if (site !== undefined) return site !== 'same-origin' && site !== 'none';
  return origin !== undefined && hostOf(origin) !== (headers.host ?? headers[':authority']);
}

function hostOf(origin: string): string | undefined {
  return URL.parse(origin)?.host;
}

/** The name in a Host header, without its port. */
function nameIn(host: string | string[] | undefined): string | undefined {
  if (typeof host !== 'string' || host === '') return undefined;
  return host
    .replace(/:\d*$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/\.$/, '')
    .toLowerCase();
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers under any name: tells nothing that is worth a name. */
    anyHost?: boolean;
  }
}
