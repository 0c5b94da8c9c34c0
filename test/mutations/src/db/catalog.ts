import type { Change } from '../../mutation.ts';

const TEST = 'test/http/collections.test.ts';

export default [
  {
    name: 'catalog-tenant',
    find: 'where tenant = ${tenant}',
    replace: 'where true',
    mechanism: "a list of collections has the tenant's alone",
    test: TEST,
    title: "another tenant's collections are not there",
  },
  {
    name: 'catalog-page-bytes',
    find: 'where bytes <= ${maxBytes} or n = 1',
    replace: '',
    mechanism: 'a page of chunks is bounded in bytes',
    test: TEST,
    title: 'that are larger than a page are pages by themselves',
  },
  {
    name: 'catalog-page-first',
    find: 'where bytes <= ${maxBytes} or n = 1',
    replace: 'where bytes <= ${maxBytes}',
    mechanism: 'a chunk that is larger than a page is a page',
    test: TEST,
    title: 'that are larger than a page are pages by themselves',
  },
  {
    name: 'catalog-cascade',
    find: 'if (part < REMOVAL_BATCH) break;',
    replace: 'break;',
    mechanism: 'a collection is deleted to its last document, and all are counted',
    test: TEST,
    title: 'are deleted with all they have',
  },
  {
    name: 'collections-of-collection',
    find: "documentColumns(db).where('collection_id', '=', collectionId);\n  return ('id' in by",
    replace: "documentColumns(db);\n  return ('id' in by",
    mechanism: 'a document is found in its collection alone',
    test: TEST,
    title: 'are of their collection alone',
  },
] satisfies readonly Change[];
