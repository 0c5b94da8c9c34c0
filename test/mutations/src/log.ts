import type { Change } from '../mutation.ts';

export default [
  {
    name: 'log-allowed',
    find: 'return { type: error.name, message,',
    replace: 'return { ...(error as object), type: error.name, message,',
    mechanism: 'of an error the log has what is known to be no payload',
    test: 'test/log.test.ts',
    title: '%s',
  },
  {
    name: 'log-quoted',
    find: `else if (typeof code === 'string' && DATA_EXCEPTION.test(code)) shown =`,
    replace: 'else if (false) shown =',
    mechanism: 'values that Postgres quotes are left out',
    test: 'test/log.test.ts',
    title: '%s',
  },
] satisfies readonly Change[];
