/** Mutations of `src/jobs/ingest/parse/reader-pool.ts`. */
import type { Change } from '../../../../mutation.ts';

const test = 'test/jobs/ingest/parse/read-document.test.ts';

export default [
  {
    name: 'reader-timeout',
    find: 'ms to read`), timeoutMs);',
    replace: 'ms to read`), 2_000_000_000);',
    mechanism: 'a document that takes too long is given up',
    test,
    title: 'is ended when its document takes too long, and the next document gets another',
  },
  {
    name: 'reader-ends',
    find: "if (!(error instanceof DocumentError) || error.details['answered'] !== true) this.end();",
    replace: '',
    mechanism: 'a thread that went beyond a limit is ended and not used again',
    test,
    title: 'is ended when its document takes too long, and the next document gets another',
  },
  {
    name: 'reader-watch',
    find: 'if (statistics !== undefined && statistics.used_heap_size + statistics.external_memory > maxBytes) onExcess();',
    replace: '',
    mechanism: 'the buffers of a thread count against its memory',
    test,
    title: 'is ended when what it expands takes too much memory',
  },
] satisfies readonly Change[];
