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
  {
    name: 'turns-fair',
    find: 'this.#queues.delete(key); if (queue.length > 0)',
    replace: 'if (queue.length === 0) this.#queues.delete(key); else',
    mechanism: 'those who ask by different keys take turns by turns',
    test: 'test/util/turns.test.ts',
    title: 'are taken by turns by those who ask by different keys, each in its own order',
  },
] satisfies readonly Change[];
