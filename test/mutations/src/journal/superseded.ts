import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'fold-restart',
    find: 'if (!resumed) return 0;',
    replace: '',
    mechanism: 'an attempt that starts over supersedes what came before',
    test: 'test/journal/fold.test.ts',
    title: 'discards all that an attempt which starts over supersedes',
  },
] satisfies readonly Change[];
