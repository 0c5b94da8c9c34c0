/** Mutations of `src/jobs/ingest/ingest-job.ts`. */
import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/ingest/ingest-job.test.ts';

export default [
  {
    name: 'ingest-bad-alone',
    find: 'if (error instanceof DocumentError) return { path, code: error.code, message: error.message };',
    replace: '',
    mechanism: 'a document that cannot be read fails alone',
    test,
    title: 'fails alone: the others are ingested, and stream and result name it',
  },
  {
    name: 'ingest-all-bad',
    find: 'if (state.failedCount === total) throw nothingRead(input.collection, state);',
    replace: '',
    mechanism: 'a job in which no document can be read fails',
    test,
    title: 'fails the job where no other can be read',
  },
] satisfies readonly Change[];
