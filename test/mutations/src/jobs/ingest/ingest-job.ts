/** Mutations of `src/jobs/ingest/ingest-job.ts`. */
import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/ingest/ingest-job.test.ts';

export default [
  {
    name: 'ingest-room-left',
    find: 'for (const one of ahead)',
    replace: 'for (const one of ahead.slice(0, 0))',
    mechanism: 'an ingest that ends early holds nothing of what it had read ahead',
    test: 'test/jobs/ingest/room.test.ts',
    title: 'that ends early holds nothing of what it had read ahead',
  },
  {
    name: 'ingest-bad-alone',
    find: 'if (error instanceof DocumentError)',
    replace: 'if (error instanceof RangeError && error instanceof DocumentError)',
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
  {
    name: 'collection-language',
    find: 'if (language !== null) return known.language === language;',
    replace: 'if (language !== null) return true;',
    mechanism: 'documents are analysed anew in the language that their collection was given',
    test: 'test/jobs/ingest/collection-language.test.ts',
    title: 'takes effect on documents that are there when they are ingested again, once',
  },
  {
    name: 'collection-language-back',
    find: 'return since === null || known.updatedAt >= since;',
    replace: 'return true;',
    mechanism: 'a language that is taken back is detected again',
    test: 'test/jobs/ingest/collection-language.test.ts',
    title: 'that is taken back is detected again',
  },
] satisfies readonly Change[];
