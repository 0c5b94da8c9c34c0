import type { Change } from '../../mutation.ts';

const TEST = 'test/runs/unread.test.ts';

export default [
  {
    name: 'unread-logged',
    find: 'if (!given.isRead) tell(error);',
    replace: '',
    mechanism: 'the log of a job has what its handler does not await',
    test: TEST,
    title: 'a %s that nobody awaits leaves its run alone',
  },
  {
    name: 'read-is-silent',
    find: 'this.isRead = true;',
    replace: '',
    mechanism: 'what a handler awaits is its own, and not in the log',
    test: TEST,
    title: 'what a handler makes of a promise is its own, and is told of under its job',
  },
  {
    name: 'unread-once',
    find: 'if (told) return;',
    replace: '',
    mechanism: 'a handler that goes on for ever logs one line',
    test: TEST,
    title: 'a %s that nobody awaits, after a cancel, is in the log of its job alone',
  },
] satisfies readonly Change[];
