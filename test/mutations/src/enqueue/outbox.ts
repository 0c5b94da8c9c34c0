import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'outbox-batch',
    find: 'at += BATCH) {',
    replace: 'at += MAX_WATCHED) {',
    mechanism: 'committed jobs are dispatched a batch at a time',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'locks no more of them at a time than a batch, and is closed once all are dispatched',
  },
  {
    name: 'outbox-close-twice',
    find: 'return this.#closed; }',
    replace: 'return Promise.resolve(); }',
    mechanism: 'every close of the outbox waits for its last check',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'locks no more of them at a time than a batch, and is closed once all are dispatched',
  },
  {
    name: 'outbox-refused',
    find: 'if (refused) return;',
    replace: '',
    mechanism: 'what Redis refuses is left to the reconciler',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'leaves what Redis refuses to the reconciler, after one batch',
  },
  {
    name: 'tx-watch',
    find: 'this.#scheduleCheck(now + FIRST_CHECK_MS);',
    replace: '',
    mechanism: 'the enqueueing process looks for the commit',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'runs when that is committed, and not before',
  },
  {
    name: 'tx-last-look',
    find: 'if (this.#watched.size > 0) await this.#check();',
    replace: '',
    mechanism: 'a fleet that closes checks once more',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'a fleet that closes at once has dispatched',
  },
] satisfies readonly Change[];
