import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'backlog-statement-bound',
    find: 'String(limits.statementMs)',
    replace: "'0'",
    mechanism: 'a statement of gauges ends in Postgres too',
    test: 'test/telemetry/rows.test.ts',
    title: 'are left out while Postgres does not answer in time: an old value would look like one of now',
  },
  {
    name: 'backlog-jobs-bound',
    find: 'order by run_at, job_id limit',
    replace: 'order by run_at, job_id limit 1000 +',
    mechanism: 'a bounded number of jobs is looked at',
    test: 'test/telemetry/rows.test.ts',
    title: 'look at a bounded number of due jobs, oldest first, and say how many they leave out',
  },
  {
    name: 'backlog-tenants-bound',
    find: "case when g.tenant in (select tenant from tenants) then g.tenant else 'other' end",
    replace: 'g.tenant',
    mechanism: 'a bounded number of tenants is named',
    test: 'test/telemetry/rows.test.ts',
    title: 'name the tenants and queues with the most jobs; the others are "other", and none is left out',
  },
  {
    name: 'backlog-limit-names',
    find: "select split_part(key, '/', 1) as limit,",
    replace: 'select key as limit,',
    mechanism: 'keys of limits, which may be names of customers, are no labels',
    test: 'test/telemetry/rows.test.ts',
    title: 'count jobs that wait for a place by the name of the limit, without their keys',
  },
] satisfies readonly Change[];
