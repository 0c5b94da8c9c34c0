import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'session-asked-web',
    find: 'await requirePostgres(fleet);',
    replace: '',
    mechanism: 'a web process does not start with a session that breaks what it does',
    test: 'test/cli/sessions.slow.test.ts',
    title: '%s ends with 4, and says which setting to change',
  },
] satisfies readonly Change[];
