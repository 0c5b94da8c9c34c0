import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'board-skips-locked',
    find: 'order by j.id for update of j skip locked',
    replace: 'order by j.id for update of j',
    mechanism: 'a row that is being claimed is left to its claim',
    test: 'test/http/board-actions.test.ts',
    title: 'stays when its row is locked by a claim, and the person is told',
  },
] satisfies readonly Change[];
