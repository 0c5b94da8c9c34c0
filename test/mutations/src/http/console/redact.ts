import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'console-redact-events',
    find: 'if (fields.length === 0) return NATIVE;',
    replace: 'if (fields.length >= 0) return NATIVE;',
    mechanism: 'events have no value in fields that are named as secret',
    test: 'test/http/console/console.test.ts',
    title: 'does not show the value of a field that is named as secret (%s)',
  },
] satisfies readonly Change[];
