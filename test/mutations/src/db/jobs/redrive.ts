import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'redrive-failed',
    find: `.where('status', 'in', from === 'failed' ? ['failed'] : ['failed', 'completed']).forUpdate()`,
    replace: '.forUpdate()',
    mechanism: 'only failed jobs are redriven',
    test: 'test/db/jobs/claim-table.test.ts',
    title: 'takes failed jobs only, resets the counters, and lets the fence and the stream go on',
  },
  {
    name: 'redrive-counters',
    find: 'interruption_count: 0,',
    replace: '',
    mechanism: 'a redrive sets every counter to zero',
    test: 'test/db/jobs/claim-table.test.ts',
    title: 'sets every counter of the row to zero, one that is added later too',
  },
  {
    name: 'list-redriven',
    find: `insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from oncefleet.jobs where id = \${id}`,
    replace: `insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from oncefleet.jobs where false and id = \${id}`,
    mechanism: 'a redrive puts its job back on the list of the unfinished',
    test: 'test/runs/model.test.ts',
    title: 'Postgres and the model agree after every step of any interleaving',
  },
] satisfies readonly Change[];
