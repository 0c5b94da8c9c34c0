import type { Change } from '../../mutation.ts';

const TEST = 'test/http/collections.test.ts';

export default [
  {
    name: 'collections-tenant',
    find: 'await findCollection(host.runtime.db.kysely, tenantOf(host, { tenant }), name)',
    replace: "await findCollection(host.runtime.db.kysely, name === 'private' ? 'tenant-b' : 'default', name)",
    mechanism: "a collection is found among the tenant's alone",
    test: TEST,
    title: "another tenant's collections are not there",
  },
  {
    name: 'collections-id-then-path',
    find: 'byId ?? (isText(document) ?',
    replace: 'byId ?? (isText(document) && !isUuid(document) ?',
    mechanism: 'a document whose path looks like an id is found by it',
    test: TEST,
    title: 'whose path is the id of another are found where no document has that id',
  },
  {
    name: 'collections-cursor',
    find: "if (text === '' || text.includes('\\0') || toCursor(text) !== cursor) throw cursorInvalid();",
    replace: '',
    mechanism: 'a cursor that no page gave is refused',
    test: TEST,
    title: 'a cursor that no page gave is refused: %s',
  },
] satisfies readonly Change[];
