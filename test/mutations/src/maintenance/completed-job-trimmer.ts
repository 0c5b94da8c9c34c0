import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'finished-foreign',
    find: `if data and string.sub(data, 1, 13) == '{"oncefleet":' then`,
    replace: 'if true then',
    mechanism: 'of a job that another client added all keys are removed',
    test: 'test/maintenance/completed-job-trimmer.test.ts',
    title: 'leave nothing behind, be they our own or parents of a flow that another client added',
  },
  {
    name: 'finished-removed',
    find: 'if (completions === 0) void this.#trim(worker);',
    replace: '',
    mechanism: 'completed jobs are removed from BullMQ as they become too many',
    test: 'test/maintenance/completed-job-trimmer.test.ts',
    title: 'are removed as they become too many, the oldest first, with all that hangs on them',
  },
  {
    name: 'finished-old',
    find: 'math.max(excess, old)',
    replace: 'excess',
    mechanism: 'completed jobs are removed from BullMQ when they are old',
    test: 'test/maintenance/completed-job-trimmer.test.ts',
    title: 'are removed when they are old, however few',
  },
] satisfies readonly Change[];
