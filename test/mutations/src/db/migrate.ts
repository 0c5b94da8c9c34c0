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
] satisfies readonly Change[];
