import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'odd-times',
    find: 'return new Date(clamp(value instanceof Date ? value.getTime() : value, TIME)).toISOString();',
    replace: 'return (value as Date).toISOString();',
    mechanism: 'a row with a time that no Date holds is shown',
    test: 'test/client/odd-rows.test.ts',
    title: '%s is shown',
  },
] satisfies readonly Change[];
