/** Cross-origin access to the API. The board is left out: its pages are for its own origin alone. */
import type { onRequestHookHandler } from 'fastify';

const ALLOWED_METHODS = 'GET, HEAD, POST, PUT, DELETE, OPTIONS';
const ALLOWED_HEADERS = 'authorization, last-event-id, idempotency-key, content-type';
const EXPOSED_HEADERS = 'x-request-id, x-workflow-run-id, etag, idempotency-replayed, location, retry-after';
/** How long a browser keeps a preflight's answer, in seconds. */
const PREFLIGHT_MAX_AGE_S = 600;

/**
 * Pages of these origins may call. With tokens that may be any: what a caller may do hangs on its bearer token, never
 * on a cookie that a browser would add by itself.
 *
 * @param origins `*` is all of them
 */
export function createCors(prefixes: readonly string[], origins: readonly string[]): onRequestHookHandler {
  return (request, reply, done) => {
    const path = request.raw.url ?? '';
    if (!prefixes.some((prefix) => path.startsWith(prefix))) {
      done();
      return;
    }
    const { origin } = request.headers;
    const any = origins.includes('*');
    const allowed = any || (origin !== undefined && origins.includes(origin));
    if (!any && origins.length > 0) reply.header('vary', 'origin');
    if (allowed) {
      reply.header('access-control-allow-origin', any ? '*' : origin);
      reply.header('access-control-expose-headers', EXPOSED_HEADERS);
    }
    if (request.method !== 'OPTIONS') {
      done();
      return;
    }
    if (allowed)
      reply
        .header('access-control-allow-methods', ALLOWED_METHODS)
        .header('access-control-allow-headers', ALLOWED_HEADERS)
        .header('access-control-max-age', PREFLIGHT_MAX_AGE_S);
    reply.header('allow', ALLOWED_METHODS).code(204).send();
  };
}
