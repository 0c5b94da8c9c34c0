import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'fingerprint-compared',
    find: 'if (holder.fingerprint !== job.fingerprint && !isSame)',
    replace: 'if (false)',
    mechanism: 'a key with another input is a mismatch',
    test: 'test/runs/deliveries.test.ts',
    title: 'with another input is a mismatch; with the same input in another order it is not',
  },
  {
    name: 'key-release',
    find: 'await store.release(holder.id, rerun);',
    replace: '',
    mechanism: 'an expired outcome lets its key go',
    test: 'test/runs/deliveries.test.ts',
    title: 'whose outcome expired starts anew, once, however many ask',
  },
  {
    name: 'key-rerun',
    find: `const rerun = onFailedKey === 'rerun' && holder.status === 'failed';`,
    replace: 'const rerun = false as boolean;',
    mechanism: 'with onFailedKey rerun a failed job lets its key go',
    test: 'test/runs/fences.test.ts',
    title: 'of a failed job starts a new one where onFailedKey says rerun, and replays where it does not',
  },
  {
    name: 'key-replay',
    find: `const rerun = onFailedKey === 'rerun' && holder.status === 'failed';`,
    replace: `const rerun = holder.status === 'failed';`,
    mechanism: 'without it the failure is replayed',
    test: 'test/runs/fences.test.ts',
    title: 'of a failed job starts a new one where onFailedKey says rerun, and replays where it does not',
  },
  {
    name: 'enqueues-share',
    find: 'maxBatch: MAX_INSERTED,',
    replace: 'maxBatch: 1,',
    mechanism: 'concurrent enqueues share statements',
    test: 'test/client/waiting.test.ts',
    title: 'a thousand enqueues of one key and a thousand waits share',
  },
  {
    name: 'locked-key-lane',
    find: 'if (!isKeyLocked(error) || performance.now() > until) throw error;',
    replace: 'throw error;',
    mechanism: 'an enqueue waits for the transaction that has its key',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'that an open transaction holds makes duplicates wait for its %s, and no other key',
  },
] satisfies readonly Change[];
