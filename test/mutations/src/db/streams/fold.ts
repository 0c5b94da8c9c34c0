import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'fold-fence',
    find: 'group?.fence === fence && group.lastSeq + 1 === firstSeq',
    replace: 'group?.lastSeq === firstSeq - 1',
    mechanism: 'a fold merges neighbours of one fence',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'keeps the fence of every event, of attempts in between and of a redrive',
  },
  {
    name: 'fold-size',
    find: '&& group.bytes + bytes <= maxBytes',
    replace: '',
    mechanism: 'a folded segment has a greatest size',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'plans groups of one fence, no larger than the limit, and none across a gap',
  },
  {
    name: 'fold-head-lock',
    find: 'for no key update skip locked',
    replace: '',
    mechanism: 'a fold has the head to itself',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'passes over a stream whose head somebody holds, and folds it later',
  },
] satisfies readonly Change[];
