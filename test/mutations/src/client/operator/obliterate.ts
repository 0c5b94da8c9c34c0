import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-obliterates-rows',
    find: 'if (names.length > 0) {',
    replace: 'if (false) {',
    mechanism: 'an obliterate cancels what Redis has lost',
    test: 'test/http/board-actions.test.ts',
    title: 'is cancelled by Obliterate also if Redis has lost it',
  },
  {
    name: 'board-obliterate-pause',
    find: 'await queue.obliterate({ force }); await pauses.align([queue]);',
    replace: 'await queue.obliterate({ force });',
    mechanism: 'a queue stays paused when it is obliterated',
    test: 'test/http/board-actions.test.ts',
    title: 'is still paused after Obliterate (force: %s), and runs jobs again after Resume',
  },
] satisfies readonly Change[];
