import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'follower-no-event',
    find: 'if (event === undefined) break;',
    replace: '',
    mechanism: 'a message that holds no event is a hint',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'reads on from Postgres when what it hears is no event',
  },
  {
    name: 'follower-seen-part',
    find: 'for (let seq = this.#tail.next; seq - firstSeq < texts.length; seq++) {',
    replace: 'for (let seq = firstSeq; seq - firstSeq < texts.length; seq++) {',
    mechanism: 'of a message seen in part the rest is given on',
    test: 'test/journal/follower.test.ts',
    title: 'drops messages it has seen, whole and in part',
  },
  {
    name: 'follower-batch-bound',
    find: 'const taken = Math.min(count, left);',
    replace: 'const taken = count;',
    mechanism: 'a batch skips no more than it has',
    test: 'test/journal/follower.test.ts',
    title: 'of batches that skips more than there is misses nothing that comes later',
  },
  {
    name: 'follower-batch-skip',
    find: 'if (taken > 0) this.#take(this.#tail.next + taken - 1);',
    replace: '',
    mechanism: 'what a reader of batches skips it has',
    test: 'test/journal/follower.test.ts',
    title:
      'of batches may skip what another has read: both are given every event once, and what is none by the journal',
  },
  {
    name: 'follower-skipped-none',
    find: 'this.#unread = false; const left = this.#firstSeq',
    replace: 'const left = this.#firstSeq',
    mechanism: 'a message that holds no event is not passed over by those who know it',
    test: 'test/journal/follower.test.ts',
    title:
      'of batches may skip what another has read: both are given every event once, and what is none by the journal',
  },
] satisfies readonly Change[];
