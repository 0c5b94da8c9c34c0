import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'follower-return',
    find: 'this.#inbox.stop(); this.#events = undefined;',
    replace: 'this.#events = undefined;',
    mechanism: 'return() ends a follower that waits',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'leave no subscription, listener or timer behind: %s',
  },
  {
    name: 'follower-types-cursor',
    find: 'this.#cursor = event.cursor;',
    replace: '',
    mechanism: 'the cursor moves past the types left out',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'of some types alone moves its cursor past the others',
  },
  {
    name: 'follower-in-turn',
    find: 'this.#asked === undefined ? step() : this.#asked.then(step, step)',
    replace: 'step()',
    mechanism: 'a follower asked several times at once answers one after the other',
    test: 'test/journal/immediate.test.ts',
    title: 'is given in order, before its commit, to a reader that has asked several times at once',
  },
  {
    name: 'follower-waits',
    find: 'if (!isTransient(error) || this.#stopped || this.#options.throughOutages === false) throw error;',
    replace: 'throw error;',
    mechanism: 'a follower waits while Postgres is unreachable',
    test: 'test/journal/follower-faults.slow.test.ts',
    title: 'a follower waits, is told everything once afterwards, and can still be stopped',
  },
  {
    name: 'follower-continues',
    find: 'open(this.#cursor)',
    replace: 'open(this.#options.after)',
    mechanism: 'a follower that has waited continues where it was',
    test: 'test/journal/follower-faults.slow.test.ts',
    title: 'a follower that has read something continues behind it',
  },
] satisfies readonly Change[];
