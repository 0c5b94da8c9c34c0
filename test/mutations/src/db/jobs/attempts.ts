import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'ending-silence',
    find: `select set_config('idle_in_transaction_session_timeout', \${String(limitMs)}, true)`,
    replace: 'select 1',
    mechanism: 'a transaction of ours that went silent is ended by Postgres',
    test: 'test/db/half-open.slow.test.ts',
    title: 'keeps no row locked',
  },
  {
    name: 'interruption-row',
    find: `and outcome <> 'interruption'`,
    replace: 'and false',
    mechanism: 'lost connections are counted in a row',
    test: 'test/runs/lost-connections.slow.test.ts',
    title: 'counts anew after one that ended otherwise',
  },
] satisfies readonly Change[];
