import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'claim-poison',
    find: `when \${crashesOf(job)} > \${maxCrashes} then 'poison'`,
    replace: '',
    mechanism: 'a job that crashed too often is poisoned',
    test: 'test/db/jobs/claim-table.test.ts',
    title:
      'a job that crashed more than maxCrashes times is to be ended as poisoned, one that did so maxCrashes times runs',
  },
  {
    name: 'claim-poison-limit',
    find: `\${crashesOf(job)} > \${maxCrashes}`,
    replace: `\${crashesOf(job)} >= \${maxCrashes}`,
    mechanism: 'maxCrashes crashes are allowed, one more is not',
    test: 'test/db/jobs/claim-table.test.ts',
    title:
      'a job that crashed more than maxCrashes times is to be ended as poisoned, one that did so maxCrashes times runs',
  },
  {
    name: 'claim-cancelled',
    find: `when \${job}.cancel_requested_at is not null then 'cancel'`,
    replace: '',
    mechanism: 'a claim obeys a cancel',
    test: 'test/db/jobs/claim-table.test.ts',
    title: 'a cancelled job stays cancelled',
  },
  {
    name: 'claim-deadline',
    find: `when \${job}.deadline_at <= clock_timestamp() then 'deadline'`,
    replace: '',
    mechanism: 'a claim obeys the deadline',
    test: 'test/db/jobs/claim-table.test.ts',
    title: 'a job past its deadline is to be ended',
  },
  {
    name: 'ttl-never',
    find: 'coalesce(finished_at is not null and expires_at <= clock_timestamp(), false)',
    replace: 'false',
    mechanism: 'an outcome expires',
    test: 'test/runs/deliveries.test.ts',
    title: 'whose outcome expired starts anew, once, however many ask',
  },
  {
    name: 'ttl-always',
    find: 'coalesce(finished_at is not null and expires_at <= clock_timestamp(), false)',
    replace: 'finished_at is not null',
    mechanism: 'an outcome is kept until it expires',
    test: 'test/runs/deliveries.test.ts',
    title: 'replays the result %s',
  },
] satisfies readonly Change[];
