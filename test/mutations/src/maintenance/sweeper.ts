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
  {
    name: 'observed-expired',
    find: 'expired(gone);',
    replace: '',
    mechanism: 'what the sweeper removes is observed',
    test: 'test/runtime/transitions.test.ts',
    title: 'the end of its retention',
  },
] satisfies readonly Change[];
