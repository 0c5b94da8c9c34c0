import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'tick-late',
    find: 'now - tick <= LATE_MS',
    replace: 'now - tick <= Infinity',
    mechanism: 'with skip a tick that is late by a minute makes no job',
    test: 'test/client/schedules/times.test.ts',
    title: 'with skip, one by itself is missed after a minute',
  },
  {
    name: 'tick-bound',
    find: 'due.slice(-MAX_MADE_UP)',
    replace: 'due',
    mechanism: 'what is made up for is bounded',
    test: 'test/client/schedules/times.test.ts',
    title: 'with all, the last thousand are made, however long nobody looked',
  },
] satisfies readonly Change[];
