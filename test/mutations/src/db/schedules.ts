import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'tick-lock',
    find: 'for update of s skip locked',
    replace: '',
    mechanism: 'a schedule is taken by one process at a time',
    test: 'test/client/schedules/schedules.test.ts',
    title: 'makes one job a tick after ten minutes in which nobody ran, however many processes look',
  },
] satisfies readonly Change[];
