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
    find: 'if (length > this.#maxLength || !this.#resize(length)) {',
    replace: 'if (false) {',
    mechanism: 'the inbox of a slow reader is bounded',
    test: 'test/journal/follower.test.ts',
    title: 'whose reader is slow keeps no more messages than its inbox holds',
  },
  {
    name: 'inbox-keep',
    find: 'if (!this.#keep(steps * KEEP_STEP)) return false;',
    replace: '',
    mechanism: 'live messages are kept for slow readers while there is room',
    test: 'test/journal/follower.test.ts',
    title: 'whose process has no room keeps no live messages, and reads them from the journal',
  },
  {
    name: 'inbox-keep-less',
    find: 'this.#length -= message.length; this.#resize(this.#length);',
    replace: 'this.#length -= message.length;',
    mechanism: 'messages that a reader has taken are not counted any more',
    test: 'test/journal/follower.test.ts',
    title: 'whose process has no room keeps no live messages, and reads them from the journal',
  },
] satisfies readonly Change[];
