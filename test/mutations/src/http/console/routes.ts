import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'console-origin',
    find: "app.addHook('onRequest', createOriginCheck([]));",
    replace: '',
    mechanism: 'a page of another origin does nothing with the cookie of a person',
    test: 'test/http/console/console.test.ts',
    title: '%s is refused, with the cookie',
  },
  {
    name: 'console-login',
    find: 'if (request.viewer === undefined) return askToLogIn(request, reply);',
    replace: "request.viewer ??= { name: '', tenant: null, scopes: ['admin'], sessionId: null };",
    mechanism: 'with tokens a page needs a login',
    test: 'test/http/console/console.test.ts',
    title: 'needs a login: %s',
  },
] satisfies readonly Change[];
