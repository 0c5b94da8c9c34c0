import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-promote-row',
    find: `if (row?.status === 'pending' && delivery.kind !== 'copy') await rescheduleWaiting(host.runtime.db.kysely, [row.id], 0);`,
    replace: '',
    mechanism: 'a promoted job is due in Postgres too',
    test: 'test/http/board-actions.test.ts',
    title: 'Promote has it run now, and a lost Redis does not take that back',
  },
] satisfies readonly Change[];
