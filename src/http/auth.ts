/** Who is calling: bearer tokens of the API, basic auth of the board. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest, onRequestHookHandler } from 'fastify';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import { sendProblem } from './problem.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose jobs this request sees. */
    tenant: string;
  }
  interface FastifyContextConfig {
    /** Accepts `?token=` too, for clients that cannot set headers (EventSource). */
    queryToken?: boolean;
  }
}

/**
 * Sets `request.tenant`: the token's, or the configured one while no tokens are set.
 *
 * @throws OncefleetError UNAUTHORIZED (from the hook)
 */
export function createTokenAuth(config: Pick<Config, 'tokens' | 'tenant'>): onRequestHookHandler {
  if (config.tokens === undefined) {
    return (request, _reply, done) => {
      request.tenant = config.tenant;
      done();
    };
  }
  const digests = [...config.tokens].map(([token, tenant]) => ({ digest: sha256(token), tenant }));
  return (request, reply, done) => {
    const token = presentedToken(request);
    const tenant = token === undefined ? undefined : findTenant(digests, token);
    if (tenant === undefined) {
      reply.header(
        'www-authenticate',
        `Bearer realm="oncefleet"${token === undefined ? '' : ', error="invalid_token"'}`,
      );
      done(
        new OncefleetError(
          'UNAUTHORIZED',
          token === undefined ? 'Send a token as `Authorization: Bearer <token>`' : 'The token is not known',
        ),
      );
      return;
    }
    request.tenant = tenant;
    done();
  };
}

/**
 * Basic auth with any user name and the admin token as password; else answers 401 itself,
 * because Bull Board's own error handler would make a 500 of an error.
 */
export function createBoardAuth(adminToken: string): onRequestHookHandler {
  const expected = sha256(adminToken);
  return (request, reply, done) => {
    const encoded = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(request.headers.authorization ?? '')?.[1];
    const pair = encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString('utf8');
    const colon = pair.indexOf(':');
    if (timingSafeEqual(sha256(colon === -1 ? '' : pair.slice(colon + 1)), expected)) {
      done();
      return;
    }
    reply.header('www-authenticate', 'Basic realm="oncefleet", charset="UTF-8"');
    sendProblem(
      new OncefleetError('UNAUTHORIZED', 'Bull Board needs the admin token as password, with any user name'),
      request,
      reply,
    );
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

/** Compares with every token, so that the time taken tells nothing about any of them. */
function findTenant(digests: readonly { digest: Buffer; tenant: string }[], token: string): string | undefined {
  const presented = sha256(token);
  let found: string | undefined;
  for (const { digest, tenant } of digests) if (timingSafeEqual(digest, presented)) found = tenant;
  return found;
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
