import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'listener-name',
    find: 'token === undefined ? !isNamed(request, host) : !isPresented(request, token)',
    replace: 'token !== undefined && !isPresented(request, token)',
    mechanism: 'without a token a name of a stranger is refused',
    test: 'test/http/metrics.test.ts',
    title: 'of a worker may be read: %s',
  },
  {
    name: 'listener-token',
    find: 'return timingSafeEqual(sha256(presented), sha256(token));',
    replace: "return presented !== '';",
    mechanism: 'only the token is let in',
    test: 'test/http/metrics.test.ts',
    title: 'of a worker may be read: %s',
  },
] satisfies readonly Change[];
