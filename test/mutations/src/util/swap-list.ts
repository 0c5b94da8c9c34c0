import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'bag-place',
    find: 'last.place = place;',
    replace: '',
    mechanism: 'a run or a lease that others have left before can still be let go of',
    test: 'test/util/swap-list.test.ts',
    title: 'holds what was added and not removed, whatever the order',
  },
] satisfies readonly Change[];
