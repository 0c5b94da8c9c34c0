import type { Change } from '../../../mutation.ts';

const READS = 'reads a bounded number of rows';

export default [
  {
    name: 'search-tenant',
    find: 'sql`tenant = ${tenant}`,',
    replace: 'sql`true`,',
    mechanism: 'a search looks in its tenant',
    test: 'test/db/search.test.ts',
    title: '%s, put together, are all that match, each once and newest first',
  },
  {
    name: 'search-bounded',
    find: 'const scanned = status === undefined ? limit : SCANNED_ROWS;',
    replace: 'const scanned = status === undefined ? limit : 1_000_000;',
    mechanism: 'a search for a status looks through a bounded number of rows',
    test: 'test/db/search.test.ts',
    title: READS,
  },
  {
    name: 'search-plans',
    find: "set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)",
    replace: "set_config('enable_bitmapscan', 'on', true)",
    mechanism: 'a search reads an index in its order, whatever Postgres guesses',
    test: 'test/db/search.test.ts',
    title: READS,
  },
  {
    name: 'search-key-first',
    find: "key === undefined ? sql`name = ${name}` : sql`name || '' = ${name}`",
    replace: 'sql`name = ${name}`',
    mechanism: 'a search by key reads the index of keys',
    test: 'test/db/search.test.ts',
    title: READS,
  },
  {
    name: 'search-timeout',
    find: "set_config('statement_timeout', ${String(limitMs)}, true)",
    replace: "set_config('statement_timeout', '0', true)",
    mechanism: 'a search ends after a time',
    test: 'test/db/search.test.ts',
    title: 'a search that takes too long is ended, and told BUSY',
  },
  {
    name: 'failed-bounded',
    find: 'order by id limit ${SCANNED_ROWS}',
    replace: 'order by id limit 1000000',
    mechanism: 'failed jobs are looked for in a bounded number of rows a statement',
    test: 'test/db/search.test.ts',
    title: 'are looked for in a bounded number of rows',
  },
  {
    name: 'failed-pages',
    find: 'offset ${SCANNED_ROWS - 1} limit 1',
    replace: 'offset ${SCANNED_ROWS} limit 1',
    mechanism: 'failed jobs are looked for in all pages of rows',
    test: 'test/db/search.test.ts',
    title: 'of many rows are redriven longest failed first, wherever they stand among them',
  },
] satisfies readonly Change[];
