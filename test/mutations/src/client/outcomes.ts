import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'waits-share',
    find: 'this.#waited.get(jobId) ?? this.#start(jobId)',
    replace: 'this.#start(jobId)',
    mechanism: 'all waits for a job share one subscription and one look',
    test: 'test/client/waiting.test.ts',
    title: 'a thousand enqueues of one key and a thousand waits share',
  },
  {
    name: 'waits-polling-storm',
    find: 'const CHECK_MS = 2_000;',
    replace: 'const CHECK_MS = 50;',
    mechanism: 'jobs that are waited for are looked at now and then',
    test: 'test/client/waiting.test.ts',
    title: 'a thousand enqueues of one key and a thousand waits share',
  },
  {
    name: 'result-rolled-back',
    find: 'if (!there.has(id)) waited.outcome.reject(neverWas(id));',
    replace: '',
    mechanism: 'a wait for a job whose transaction was rolled back ends',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'from %s the rollback ends with an error',
  },
  {
    name: 'result-in-progress',
    find: `statuses.get(xid) !== 'in progress'`,
    replace: 'true',
    mechanism: 'a wait for a job whose transaction is open goes on',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'before the commit comes after it',
  },
  {
    name: 'result-closed',
    find: 'waited.outcome.reject(closedError(jobId));',
    replace: '',
    mechanism: 'a wait ends when its fleet is closed',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'ends with an error when its fleet is closed, also if it is waited for afterwards',
  },
] satisfies readonly Change[];
