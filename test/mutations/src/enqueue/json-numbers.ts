import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'body-infinite',
    find: `if (typeof at === 'number' && !Number.isFinite(at))`,
    replace: 'if (false)',
    mechanism: 'a number of JSON that no double holds is refused',
    test: 'test/http/odd-bodies.test.ts',
    title: 'a number that is larger than numbers are is refused with its path',
  },
] satisfies readonly Change[];
