import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-retry-cancelled',
    find: `if (row.status === 'cancelled') throw refusedAsOver(`,
    replace: 'if (false) throw refusedAsOver(',
    mechanism: 'a cancelled job is not retried',
    test: 'test/http/board-actions.test.ts',
    title: 'is not retried against its row (%s), and the person is told why',
  },
] satisfies readonly Change[];
