import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'host-checked',
    find: '|| isLoopback(name) || name === host) {',
    replace: '|| true) {',
    mechanism: 'without tokens the server answers under names of its own alone',
    test: 'test/http/origins.test.ts',
    title: '%s is served under loopback names and HOST alone',
  },
  {
    name: 'origin-site',
    find: "if (site !== undefined) return site !== 'same-origin' && site !== 'none';",
    replace: '',
    mechanism: 'a browser that says where a request comes from is believed',
    test: 'test/http/origins.test.ts',
    title: 'is refused to pages of other origins, also with the password',
  },
  {
    name: 'origin-compared',
    find: 'return origin !== undefined && hostOf(origin) !==',
    replace: 'return false && hostOf(origin as string) !==',
    mechanism: 'a write of another origin is refused where the browser does not say where it comes from',
    test: 'test/http/origins.test.ts',
    title: 'is refused to pages of other origins, also with the password',
  },
] satisfies readonly Change[];
