/** Mutations of `src/jobs/ingest/parse/encoding.ts`. */
import type { Change } from '../../../../mutation.ts';

const test = 'test/jobs/ingest/parse/formats.test.ts';

export default [
  {
    name: 'encoding-mark',
    find: 'byMark(bytes) ?? asUtf8(bytes)',
    replace: 'asUtf8(bytes)',
    mechanism: 'a byte order mark tells the encoding',
    test,
    title: 'UTF-16 BE with a mark',
  },
  {
    name: 'encoding-declared',
    find: 'byDeclaration(bytes, declared) ??',
    replace: '',
    mechanism: 'a declared encoding comes before a guess',
    test,
    title: 'KOI8-R as declared by a content type',
  },
] satisfies readonly Change[];
