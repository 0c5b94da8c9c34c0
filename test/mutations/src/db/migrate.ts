import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'migrate-locked',
    find: 'await lockMigrations(trx, schema); if (!',
    replace: 'if (!',
    mechanism: 'one process migrates at a time',
    test: 'test/db/own-schema.test.ts',
    title: 'two processes that migrate at once both find it migrated',
  },
  {
    name: 'migrate-elsewhere',
    find: 'if (schema !== OLD_SCHEMA && (await findOldMigrations(db, known)).length > 0) throw elsewhere(schema);',
    replace: '',
    mechanism: 'tables of an earlier build are not passed over',
    test: 'test/db/own-schema.test.ts',
    title: 'are moved with their data and their notes, and nothing else is',
  },
  {
    name: 'migrate-timeout',
    find: "['statement_timeout', '0'],",
    replace: '',
    mechanism: 'migrations take as long as they take',
    test: 'test/db/session.test.ts',
    title: 'are not kept from what they need by a statement_timeout of the role',
  },
] satisfies readonly Change[];
