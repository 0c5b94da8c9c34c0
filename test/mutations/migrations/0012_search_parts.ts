import type { Change } from '../mutation.ts';

export default [
  {
    name: 'search-removal-deleted',
    find: "if tg_op = 'DELETE' then",
    replace: "if tg_op = 'DELETE' then return null;",
    mechanism: 'whoever deletes a document, searches leave it out',
    test: 'test/search/search-index.test.ts',
    title: 'equal a count of its texts after any ingests, replacements, deletes and crashes',
  },
  {
    name: 'search-removal-replaced',
    find: 'where p.search_number <> o.search_number and o.analyser_version > 0',
    replace: 'where p.search_number <> o.search_number and o.analyser_version < 0',
    mechanism: 'searches leave out versions that have been replaced',
    test: 'test/search/search-index.test.ts',
    title: 'equal a count of its texts after any ingests, replacements, deletes and crashes',
  },
  {
    name: 'search-migrates',
    find: 'await indexAll(db);',
    replace: '',
    mechanism: 'collections of an earlier release stay searchable',
    test: 'test/search/search-index.test.ts',
    title: 'a collection of an earlier release is searchable after the migration, and analysed anew by its next ingest',
  },
] satisfies readonly Change[];
