import type { Change } from '../../../mutation.ts';

const TEST = 'test/db/jobs/inspect.test.ts';

export default [
  {
    name: 'inspect-words-indexed',
    find: 'return rows.length > INSPECTED_ROWS ? undefined : rows.map(({ job_id }) => job_id);',
    replace: 'return undefined;',
    mechanism: 'words of few errors are looked up among all jobs',
    test: TEST,
    title: '%s: %j',
  },
  {
    name: 'inspect-failed-tenant',
    find: '[sql`tenant = ${tenant}`]',
    replace: '[sql`true`]',
    mechanism: 'a search among failed jobs looks in its tenant',
    test: TEST,
    title: '%s: %j',
  },
] satisfies Change[];
