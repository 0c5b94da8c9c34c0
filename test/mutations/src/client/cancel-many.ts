import type { Change } from '../../mutation.ts';

const TEST = 'test/client/enqueue-many.test.ts';

export default [
  {
    name: 'cancel-many-running',
    find: "status === 'pending' ? [] : jobs",
    replace: 'jobs',
    mechanism: 'discarding a backlog leaves what is claimed just then',
    test: TEST,
    title: 'leaves a job that is claimed between the look and the cancel',
  },
  {
    name: 'cancel-many-limit',
    find: 'page.jobs.slice(0, limit - result.matched)',
    replace: 'page.jobs',
    mechanism: 'a bulk cancel takes no more than its limit',
    test: TEST,
    title: 'takes no more than its limit',
  },
] satisfies readonly Change[];
