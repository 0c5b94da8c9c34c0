/** What every answer tells a browser. Pages of the console and Bull Board have policies of their own. */
import type { onRequestHookHandler } from 'fastify';

const HEADERS = {
  // What a browser is given is what its content type says.
  'x-content-type-options': 'nosniff',
  // An answer of the API that is opened as a page runs nothing, and is put into none.
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'x-frame-options': 'DENY',
  // A URL may have a key or a ticket in it.
  'referrer-policy': 'same-origin',
  // Pages that may call the API ask with CORS, which this does not touch.
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  // Data of tenants. What may be kept says so itself.
  'cache-control': 'no-store',
} as const;

const HSTS = 'max-age=31536000';

/** HSTS only where the request came by TLS, as far as a trusted proxy tells. */
export const securityHeaders: onRequestHookHandler = (request, reply, done) => {
  reply.headers(HEADERS);
  if (request.protocol === 'https') reply.header('strict-transport-security', HSTS);
  done();
};
