/** Mutations of `src/jobs/ingest/parse/kinds.ts`. */
import type { Change } from '../../../../mutation.ts';

const test = 'test/jobs/ingest/parse/formats.test.ts';

export default [
  {
    name: 'kinds-by-bytes',
    find: 'if (type !== undefined && !TEXT_TYPES.test(type)) {',
    replace: 'if (type === null) {',
    mechanism: 'bytes of a kind that is not read are refused whatever the name says',
    test,
    title: 'an image named as text',
  },
  {
    name: 'kinds-damaged',
    find: "if (named?.from === 'bytes' && (type === undefined || (isZip && named.kind === 'docx')))",
    replace: 'if (named === null)',
    mechanism: 'a text with the name of a PDF is not taken for a text',
    test,
    title: 'text named as PDF',
  },
] satisfies readonly Change[];
