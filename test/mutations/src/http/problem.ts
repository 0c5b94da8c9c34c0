import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'busy-told',
    find: 'if (isPoolTaken(error)) {',
    replace: 'if (false) {',
    mechanism: 'a pool without a free connection is told apart from an unreachable Postgres',
    test: 'test/db/search.test.ts',
    title: 'a pool without a free connection is told apart from a Postgres that cannot be reached',
  },
] satisfies readonly Change[];
