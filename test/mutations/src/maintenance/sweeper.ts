import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sweep-lock',
    find: 'if (lock.rows[0]?.locked !== true) return undefined;',
    replace: '',
    mechanism: 'one process sweeps at a time',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'is done by one process at a time',
  },
] satisfies readonly Change[];
