import type { Change } from '../mutation.ts';

const TEST = 'test/db/jobs/inspect.test.ts';
const TITLE = 'the table of failed jobs follows the rows: ends, redrives, removals';

export default [
  {
    name: 'failed-jobs-noted',
    find: 'create trigger jobs_failed after update of status on jobs',
    replace: 'create trigger jobs_failed after update of queue on jobs',
    mechanism: 'a job that fails is noted for searches, and no longer once it is redriven',
    test: TEST,
    title: TITLE,
  },
  {
    name: 'failed-jobs-removed',
    find: "when (old.status in ('failed', 'cancelled')) execute function note_failed_job()",
    replace: "when (old.status in ('failed', 'cancelled') and false) execute function note_failed_job()",
    mechanism: 'what is noted of a job goes with it',
    test: TEST,
    title: TITLE,
  },
] satisfies Change[];
