import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'silence-ends',
    find: 'void client.end().catch(() => undefined);',
    replace: '',
    mechanism: 'a connection to Postgres that went half-open is ended',
    test: 'test/db/half-open.slow.test.ts',
    title: 'cost an outcome a moment, not a quarter of an hour',
  },
  {
    name: 'silence-idle',
    find: 'for (const [other, at] of idle) if (at < since) destroyIdle(other);',
    replace: '',
    mechanism: 'what was idle when a connection went half-open goes with it',
    test: 'test/db/half-open.slow.test.ts',
    title: 'waits for one of them, not for one after the other',
  },
  {
    name: 'silence-heard',
    find: 'if (at < since) destroyIdle(other)',
    replace: 'destroyIdle(other)',
    mechanism: 'a connection that has answered since is no suspect',
    test: 'test/db/half-open.slow.test.ts',
    title: 'keeps those that have answered since',
  },
  {
    name: 'silence-asks',
    find: 'clients.filter((client) => !active.has(pidOf(client)))',
    replace: 'clients.filter(() => active.size >= 0)',
    mechanism: 'a slow statement is not taken for a lost one',
    test: 'test/db/half-open.slow.test.ts',
    title: 'are not mistaken for slow statements, nor for those that wait for a lock',
  },
] satisfies readonly Change[];
