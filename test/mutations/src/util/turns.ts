import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'turn-passed',
    find: 'turn.resolve(); throw error;',
    replace: 'throw error;',
    mechanism: 'who gives up waiting passes the turn on',
    test: 'test/util/turns.test.ts',
    title: 'pass to the next one where somebody gives up waiting',
  },
] satisfies readonly Change[];
