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
  {
    name: 'ingest-pattern-dot',
    find: 'if (!match.split(sep).some(isLeftOut)) matches.push(match);',
    replace: 'matches.push(match);',
    mechanism: 'a pattern brings in no dot file',
    test,
    title: 'finds what it matches, but for what folders leave out: %s',
  },
  {
    name: 'ingest-pattern-confined',
    find: 'const found = await this.#look(path, true, true);',
    replace: 'const found = await this.#look(path, true, false);',
    mechanism: 'what a pattern matches leads no further than its folder',
    test,
    title: 'follows no link out of its folder',
  },
] satisfies readonly Change[];
