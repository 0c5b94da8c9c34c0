import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'result-attached-xid',
    find: 'pg_current_xact_id_if_assigned()::text as xid',
    replace: 'null::text as xid',
    mechanism: 'a handle that attached in a transaction knows which',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'from %s the rollback ends with an error',
  },
  {
    name: 'tx-outbox',
    find: 'insert into oncefleet.dispatch_outbox (job_id) select id from job )',
    replace: 'select id from job)',
    mechanism: 'the outbox is part of the transaction of the caller',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'of a process that died before it could dispatch, the reconciler of another dispatches',
  },
  {
    name: 'tx-required',
    find: 'await run(REQUIRE_TRANSACTION, []);',
    replace: '',
    mechanism: 'an open transaction is required',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'a client that was refused is as usable as before',
  },
  {
    name: 'tx-home',
    find: 'if (found.home !== home)',
    replace: 'if (false)',
    mechanism: `a transaction is on the fleet's own database`,
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'a transaction on another database goes on after the refusal',
  },
  {
    name: 'tx-conflict',
    find: 'on conflict (tenant, name, idempotency_key, key_scope) where not key_released do nothing',
    replace: '',
    mechanism: 'a duplicate does not spoil the transaction of the caller',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'leaves it usable after every answer that a key can get',
  },
  {
    name: 'list-transaction',
    find: 'insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from job',
    replace: 'select from job',
    mechanism: 'a job enqueued in a transaction is on the list of the unfinished',
    test: 'test/maintenance/redis-loss.slow.test.ts',
    title: 'a job that was enqueued in a transaction runs, though Redis had it',
  },
] satisfies readonly Change[];
