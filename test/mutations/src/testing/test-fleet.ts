import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'test-fleet-options-first',
    find: 'checkOptions(options); const {',
    replace: 'const {',
    mechanism: 'options of a test fleet are checked before a server is started',
    test: 'test/options.test.ts',
    title: 'before it starts anything',
  },
  {
    name: 'test-fleet-drop',
    find: 'if (!services.ownPostgres) watchdog.drop({ serverUrl: services.databaseUrl, database: name });',
    replace: '',
    mechanism: 'the database of a killed test process is dropped',
    test: 'test/testing/test-fleet.slow.test.ts',
    title: 'leaves nothing on given servers when its process is killed',
  },
] satisfies readonly Change[];
