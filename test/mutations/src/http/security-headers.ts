import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'headers-not-framed',
    find: "\"default-src 'none'; frame-ancestors 'none'\"",
    replace: '"default-src \'none\'"',
    mechanism: 'no answer is put into a page of somebody else',
    test: 'test/http/request-limits.test.ts',
    title: 'has the headers that keep browsers from making something else of it',
  },
] satisfies readonly Change[];
