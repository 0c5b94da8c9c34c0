import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'search-at-once',
    find: 'atOnce: Math.max(1, Math.floor((pool.options.max ?? 1) / 2)),',
    replace: 'atOnce: 1_000,',
    mechanism: 'searches leave connections to others',
    test: 'test/db/search.test.ts',
    title: 'others find a connection, and who waits too long is told BUSY',
  },
] satisfies readonly Change[];
