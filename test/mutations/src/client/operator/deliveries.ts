import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-no-job',
    find: `(await runtime.redis.hget(queue.toKey(id), 'timestamp')) === null`,
    replace: 'false',
    mechanism: 'what is no job is not taken for one',
    test: 'test/http/board-actions.test.ts',
    title: 'that cannot be meant get a sentence',
  },
] satisfies readonly Change[];
