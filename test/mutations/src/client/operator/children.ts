import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-children',
    find: 'await endChildren(host, queue, [job]); await translated(job.removeUnprocessedChildren());',
    replace: 'await translated(job.removeUnprocessedChildren());',
    mechanism: 'children that are removed are cancelled',
    test: 'test/http/board-actions.test.ts',
    title: 'loses the children that wait with Remove unprocessed children, and their rows are cancelled',
  },
] satisfies readonly Change[];
