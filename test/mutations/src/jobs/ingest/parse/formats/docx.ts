/** Mutations of `src/jobs/ingest/parse/formats/docx.ts`. */
import type { Change } from '../../../../../mutation.ts';

export default [
  {
    name: 'docx-expansion',
    find: 'if (expanded <= maxExpandedBytes) return;',
    replace: 'if (expanded >= 0) return;',
    mechanism: 'what a DOCX expands to is counted while it expands',
    test: 'test/jobs/ingest/parse/formats.test.ts',
    title: 'that expands to more than it may is refused',
  },
] satisfies readonly Change[];
