import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'previous-superseded',
    find: '|| dropped.some(({ from, below }) => seq >= from && seq < below)',
    replace: '',
    mechanism: 'an attempt does not find what is superseded',
    test: 'test/journal/attempts.test.ts',
    title: 'does not find what an attempt before the change of policy had superseded',
  },
] satisfies readonly Change[];
