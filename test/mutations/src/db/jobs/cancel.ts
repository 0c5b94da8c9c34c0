import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'cancel-tenant',
    find: `where id = \${id} and tenant = \${tenant} and \${sql.raw(unfinished('j'))}`,
    replace: `where id = \${id} and \${sql.raw(unfinished('j'))}`,
    mechanism: 'a cancel looks in its tenant',
    test: 'test/runs/fences.test.ts',
    title: 'cannot be cancelled, redriven, read, found or waited for',
  },
  {
    name: 'list-cancel',
    find: 'update oncefleet.unfinished_jobs u set end_by = clock_timestamp() from asked a where u.job_id = a.id',
    replace: 'select from asked',
    mechanism: 'a cancel of a job that is not due is found by the list',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'ends waiting jobs that are cancelled or past their deadline',
  },
] satisfies readonly Change[];
