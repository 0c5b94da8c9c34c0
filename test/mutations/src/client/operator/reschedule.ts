import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-reschedule-row',
    find: 'if (!(await rescheduleWaiting(db, [row.id], delayMs)).has(row.id)) throw refusedAsRunning(id);',
    replace: '',
    mechanism: 'a job is rescheduled in Postgres too',
    test: 'test/http/board-actions.test.ts',
    title: 'neither doctor, reconciler nor a lost Redis undoes it',
  },
  {
    name: 'board-priority-row',
    find: '!(await reprioritiseWaiting(host.runtime.db.kysely, row.id, priority))',
    replace: 'false',
    mechanism: 'a priority is changed in Postgres too',
    test: 'test/http/board-actions.test.ts',
    title: 'Change priority changes it in the row too, so that a lost Redis keeps it',
  },
] satisfies readonly Change[];
