import type { Change } from '../../mutation.ts';

const test = 'test/cli/collect-documents.test.ts';

export default [
  {
    name: 'ingest-confined',
    find: 'if (used && confined && !this.#isInside(real)) {',
    replace: 'if (used && confined && this.#named?.length === 0) {',
    mechanism: 'a link leads no further than what was named',
    test,
    title: '%s is left out and named',
  },
  {
    name: 'ingest-dot-link',
    find: '!leadsOut(inside) && !inside.split(sep).some(isLeftOut)',
    replace: '!leadsOut(inside)',
    mechanism: 'a link brings in no dot file',
    test,
    title: '%s is left out and named',
  },
] satisfies readonly Change[];
