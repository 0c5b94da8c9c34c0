import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'round-lock',
    find: `and pg_try_advisory_xact_lock(\${LOCK_ID})`,
    replace: '',
    mechanism: 'one process reconciles at a time',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'does nothing while another process is at it',
  },
  {
    name: 'round-idle-limit',
    find: `\${String(options.idleLimitMs)}`,
    replace: '0',
    mechanism: 'Postgres takes the lock from a reconciler that is frozen',
    test: 'test/maintenance/reconciler-processes.slow.test.ts',
    title: 'take over within seconds from a process that %s stopped in the middle of a round',
  },
  {
    name: 'round-turn',
    find: `where worker <> \${options.worker}`,
    replace: 'where false',
    mechanism: 'who did the last round goes on',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'leave the work to the one that did the last round, until it is overdue',
  },
] satisfies readonly Change[];
