import type { Change } from '../../mutation.ts';

const TOKENS = 'test/http/tokens.test.ts';

export default [
  {
    name: 'token-scope',
    find: "if (scopes.includes(needed) || scopes.includes('admin')) return;",
    replace: 'return;',
    mechanism: 'a token may do what its scopes say',
    test: TOKENS,
    title: 'with a token of the scope %s is refused where it needs another',
  },
  {
    name: 'requests-by-address',
    find: 'await authenticate(request, reply).catch((error: unknown) => {\n      refused = { error };\n    });',
    replace: 'await authenticate(request, reply);',
    mechanism: 'requests with wrong tokens are counted too',
    test: 'test/http/request-limits.test.ts',
    title: 'is told so by the pages and what needs no token, by its address',
  },
  {
    name: 'token-cut-off',
    find: "if (state !== 'active') reply.raw.destroy();",
    replace: 'void state;',
    mechanism: 'a response that is under way ends with its token',
    test: TOKENS,
    title: 'that is revoked ends the streams that it has open, in every process',
  },
  {
    name: 'ticket-routes',
    find: "if (request.routeOptions.config.ticket !== true || /^Bearer\\b/i.test(request.headers.authorization ?? '')) return undefined;",
    replace: '',
    mechanism: 'a ticket opens the stream of one job, and no other route',
    test: TOKENS,
    title: 'is no token, and opens nothing else',
  },
] satisfies readonly Change[];
