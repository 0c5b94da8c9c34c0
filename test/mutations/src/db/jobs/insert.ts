import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'key-tenant',
    find: 'join oncefleet.jobs j on j.tenant = k.tenant and j.name = k.name',
    replace: 'join oncefleet.jobs j on j.name = k.name',
    mechanism: 'a key is looked up in its tenant',
    test: 'test/runs/fences.test.ts',
    title: 'of one tenant never meets the job of another under the same key',
  },
  {
    name: 'locked-key-wait',
    find: `'\${KEY_LOCK_WAIT_MS}'`,
    replace: `'0'`,
    mechanism: 'a batch does not wait for the transaction that has one of its keys',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'that an open transaction holds makes duplicates wait for its %s, and no other key',
  },
  {
    name: 'list-deadline',
    find: 'insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from job returning job_id',
    replace: 'insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from job returning job_id',
    mechanism: 'a deadline of a job that is not due is found by the list',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'ends waiting jobs that are cancelled or past their deadline',
  },
] satisfies readonly Change[];
