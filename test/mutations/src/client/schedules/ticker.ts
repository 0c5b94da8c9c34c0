import type { Change } from '../../../mutation.ts';

const TEST = 'test/client/schedules/schedules.test.ts';

export default [
  {
    name: 'tick-key',
    find: 'const key = tickKey(name, tick);',
    replace: 'const key = tickKey(crypto.randomUUID(), tick);',
    mechanism: 'a tick that is made again meets the job that it made',
    test: TEST,
    title: 'makes a tick once, though it is asked for again',
  },
  {
    name: 'tick-names',
    find: 'lockDue(trx, { jobNames: [...jobs.keys()],',
    replace: "lockDue(trx, { jobNames: ['job'],",
    mechanism: 'a schedule is left to a process that knows its job',
    test: TEST,
    title: 'is left to a process that knows its job',
  },
] satisfies readonly Change[];
