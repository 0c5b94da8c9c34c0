/** Who is calling: bearer tokens of the API, tickets of streams, basic auth of the board. */
import { timingSafeEqual } from 'node:crypto';
import type { FastifyReply, FastifyRequest, onRequestAsyncHookHandler } from 'fastify';
import type { Scope } from '../client/access/access.ts';
import { hashToken } from '../client/access/token-text.ts';
import type { JobClient } from '../client/client.ts';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import { sendProblem } from './problem.ts';
import type { RequestLimits } from './request-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose jobs this request sees. */
    tenant: string;
  }
  interface FastifyContextConfig {
    /** Accepts `?token=` too, for clients that cannot set headers (EventSource). */
    queryToken?: boolean;
    /** Accepts `?ticket=`, made for the job `:id` of the path. */
    ticket?: boolean;
    /** What a token must be for; else `scopeOf` goes by the method. */
    scope?: Scope;
  }
}

interface Digest {
  digest: Buffer;
  tenant: string;
}

/** How often requests in progress are asked again whether their token is still good. */
const LOOK_AGAIN_MS = 2_000;

/** A request in progress, and the token that it came with. */
interface Watched {
  token: string;
  reply: FastifyReply;
}

/**
 * Sets `request.tenant`: the token's, or the configured one while no tokens are needed.
 *
 * Tokens of the settings have every scope. Those in Postgres are confirmed every 2 s, also for a response that is still
 * under way: one whose token is revoked is cut off.
 *
 * @returns the hook, which throws OncefleetError UNAUTHORIZED, SCOPE_MISSING, TOO_MANY_REQUESTS, STORE_UNAVAILABLE; and what ends its watch
 */
export function createTokenAuth(
  config: Pick<Config, 'tokens' | 'tenant'>,
  client: Pick<JobClient, 'access'>,
  limits: RequestLimits,
): { hook: onRequestAsyncHookHandler; close(): void } {
  if (config.tokens === undefined) {
    const hook: onRequestAsyncHookHandler = async (request, reply) => {
      request.tenant = config.tenant;
      limits.count(request, reply);
    };
    return { hook, close() {} };
  }
  const digests = [...config.tokens].map(([token, tenant]) => ({ digest: hashToken(token), tenant }));
  const watched = new Set<Watched>();
  const timer = setInterval(() => {
    for (const one of watched) void cutOffRevoked(client, one);
  }, LOOK_AGAIN_MS);
  timer.unref();
  const authenticate = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const ticket = presentedTicket(request);
    if (ticket !== undefined) {
      request.tenant = await readTicket(client, ticket, request);
      request.caller = `stream ${String((request.params as { id?: unknown }).id).toLowerCase()}`;
      return;
    }
    const token = presentedToken(request);
    if (token === undefined) throw refusal(reply, 'Send a token as `Authorization: Bearer <token>`');
    const known = findTenant(digests, token);
    if (known !== undefined) {
      request.tenant = known;
      request.caller = callerOf(token);
      return;
    }
    const { state, holder } = await client.access.resolve('token', token);
    if (holder === undefined || holder.tenant === null)
      throw refusal(reply, state === 'unknown' ? 'The token is not known' : `The token is ${state}`, true);
    request.caller = callerOf(token);
    requireScope(holder.scopes, scopeOf(request.routeOptions.config, request.method));
    request.tenant = holder.tenant;
    const one = { token, reply };
    watched.add(one);
    reply.raw.once('close', () => watched.delete(one));
  };
  const hook: onRequestAsyncHookHandler = async (request, reply) => {
    // Also where it is refused: by its address, unless the token was good for something.
    let refused: { error: unknown } | undefined;
    await authenticate(request, reply).catch((error: unknown) => {
      refused = { error };
    });
    limits.count(request, reply);
    if (refused !== undefined) throw refused.error;
  };
  return { hook, close: () => clearInterval(timer) };
}

function callerOf(token: string): string {
  return `token ${hashToken(token).toString('base64url')}`;
}

/** What a token must be for, to call a route. */
function scopeOf({ scope }: { scope?: Scope }, method: string): Scope {
  if (scope !== undefined) return scope;
  if (method === 'GET' || method === 'HEAD' || method === 'OPTIONS') return 'read';
  return method === 'POST' ? 'enqueue' : 'admin';
}

/** @throws OncefleetError SCOPE_MISSING */
function requireScope(scopes: readonly Scope[], needed: Scope): void {
  if (scopes.includes(needed) || scopes.includes('admin')) return;
  throw new OncefleetError(
    'SCOPE_MISSING',
    `This needs a token with the scope ${needed}; this one has ${scopes.join(', ')}`,
  );
}

async function cutOffRevoked(client: Pick<JobClient, 'access'>, { token, reply }: Watched): Promise<void> {
  try {
    const { state } = await client.access.resolve('token', token);
    if (state !== 'active') reply.raw.destroy();
  } catch {
    // Postgres does not answer: it was good before.
  }
}

/** @returns the tenant @throws OncefleetError UNAUTHORIZED */
async function readTicket(client: Pick<JobClient, 'access'>, ticket: string, request: FastifyRequest): Promise<string> {
  const { id } = request.params as { id?: unknown };
  const checked = await client.access.tickets.check(ticket, String(id).toLowerCase());
  if (checked.state === 'active') return checked.tenant;
  throw new OncefleetError(
    'UNAUTHORIZED',
    checked.state === 'expired' ? 'The ticket has expired; make another one' : 'The ticket is not one of this stream',
  );
}

function refusal(reply: FastifyReply, message: string, invalid = false): OncefleetError {
  reply.header('www-authenticate', `Bearer realm="oncefleet"${invalid ? ', error="invalid_token"' : ''}`);
  return new OncefleetError('UNAUTHORIZED', message);
}

/**
 * The session of an operator of all tenants, or basic auth with any user name and the admin token as password. A browser
 * without either is led to the login; others are answered 401 here, because Bull Board's own error handler would make
 * a 500 of an error.
 */
export function createBoardAuth(
  adminToken: string,
  isOperator: (request: FastifyRequest) => Promise<boolean>,
): onRequestAsyncHookHandler {
  const expected = hashToken(adminToken);
  return async (request, reply) => {
    const { authorization, accept } = request.headers;
    const encoded = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization ?? '')?.[1];
    const pair = encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString('utf8');
    const colon = pair.indexOf(':');
    if (timingSafeEqual(hashToken(colon === -1 ? '' : pair.slice(colon + 1)), expected)) return undefined;
    if (authorization === undefined) {
      if (await isOperator(request)) return undefined;
      if (request.method === 'GET' && accept?.includes('text/html') === true)
        return reply.redirect(`/login?next=${encodeURIComponent(request.raw.url ?? '/')}`, 303);
    }
    reply.header('www-authenticate', 'Basic realm="oncefleet", charset="UTF-8"');
    sendProblem(
      new OncefleetError('UNAUTHORIZED', 'Bull Board needs the admin token as password, with any user name'),
      request,
      reply,
    );
    return reply;
  };
}

function presentedToken(request: FastifyRequest): string | undefined {
  const header = request.headers.authorization ?? '';
  // Other schemes do not count: a browser that has been to the board may send its password along.
  if (/^Bearer\b/i.test(header)) return /^Bearer +(\S+)$/i.exec(header)?.[1] ?? '';
  if (request.routeOptions.config.queryToken !== true) return undefined;
  const { token } = request.query as { token?: unknown };
  return typeof token === 'string' ? token : undefined;
}

function presentedTicket(request: FastifyRequest): string | undefined {
  if (request.routeOptions.config.ticket !== true || /^Bearer\b/i.test(request.headers.authorization ?? ''))
    return undefined;
  const { ticket } = request.query as { ticket?: unknown };
  return typeof ticket === 'string' ? ticket : undefined;
}

/** Compares with every token, so that the time taken tells nothing about any of them. */
function findTenant(digests: readonly Digest[], token: string): string | undefined {
  const presented = hashToken(token);
  let found: string | undefined;
  for (const { digest, tenant } of digests) if (timingSafeEqual(digest, presented)) found = tenant;
  return found;
}
