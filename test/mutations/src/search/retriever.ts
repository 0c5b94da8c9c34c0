import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'search-snapshot',
    find: ".setIsolationLevel('repeatable read')",
    replace: ".setIsolationLevel('read committed')",
    mechanism: 'a search reads parts, removals and chunks of one moment',
    test: 'test/search/search-index.test.ts',
    title: 'a search that has begun finds what it began with, whatever is merged and replaced meanwhile',
  },
] satisfies readonly Change[];
