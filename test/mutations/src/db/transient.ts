import type { Change } from '../../mutation.ts';

const TEST = 'test/runs/refused-connections.test.ts';

export default [
  {
    name: 'unopened-passes',
    find: `if (opening === 'passes') return true;`,
    replace: '',
    mechanism: 'a refused connection is waited for, whatever its code: no handler runs twice for it',
    test: TEST,
    title: 'with %s, runs go on once',
  },
  {
    name: 'fatal-statement',
    find: 'if (opening === undefined && ENDS_SESSION.has(severity)) return true;',
    replace: '',
    mechanism: 'a login that a pooler refuses in the answer to a statement is waited for',
    test: TEST,
    title:
      'waits for a connection that a pooler refuses in the answer to a statement, and for no other refused statement',
  },
  {
    name: 'lost-noted',
    find: 'if (isLost) lost.add(error);',
    replace: '',
    mechanism: 'a handler that loses its connection to Postgres has not failed',
    test: 'test/runs/lost-connections.slow.test.ts',
    title: 'a select by ctx.db interrupts the attempt, and costs none',
  },
  {
    name: 'lost-cancelled',
    find: 'ENDS_SESSION.has(severity) || (typeof code',
    replace: 'isTransient(error) || (typeof code',
    mechanism: 'a cancelled statement is no lost connection',
    test: 'test/runs/lost-connections.slow.test.ts',
    title: 'is a statement that was cancelled',
  },
] satisfies readonly Change[];
