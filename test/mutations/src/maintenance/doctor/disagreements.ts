import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'doctor-children',
    find: `return row.source === undefined ? 'lost' : undefined;`,
    replace: `return 'lost';`,
    mechanism: 'a job that waits for its children is not lost',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'a parent waits for children that it adds, and the doctor finds nothing wrong with that',
  },
] satisfies readonly Change[];
