import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'follower-unlistens',
    find: `signal?.removeEventListener('abort', onAbort); this.#wake`,
    replace: 'this.#wake',
    mechanism: 'a follower takes its listener off the signal',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'leave no subscription, listener or timer behind: %s',
  },
  {
    name: 'follower-inbox-bound',
    find: 'if (this.#length + message.length > this.#maxLength) { this.#messages = [];',
    replace: 'if (false) { this.#messages = [];',
    mechanism: 'the inbox of a slow reader is bounded',
    test: 'test/journal/follower.test.ts',
    title: 'whose reader is slow keeps no more messages than its inbox holds',
  },
] satisfies readonly Change[];
