import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'raise-again',
    find: `and fence in (\${fence}, \${fence}::bigint + 1)`,
    replace: `and fence = \${fence}`,
    mechanism: 'a fence whose raise was not answered is raised once',
    test: 'test/runs/fences.test.ts',
    title: 'a fence that its own run raises is raised once, however often it asks',
  },
  {
    name: 'raise-owner',
    find: `and lease_owner = \${owner} and fence in`,
    replace: 'and fence in',
    mechanism: 'only the owner of a lease raises its fence',
    test: 'test/runs/fences.test.ts',
    title: 'a fence that its own run raises is raised once, however often it asks',
  },
  {
    name: 'checkpoint-fence',
    find: `.where('id', '=', checkpoint.id).where('fence', '=', checkpoint.fence)`,
    replace: `.where('id', '=', checkpoint.id)`,
    mechanism: 'a checkpoint is held to its fence',
    test: 'test/db/claim-table.test.ts',
    title: 'cannot save a checkpoint',
  },
  {
    name: 'lock-fence',
    find: `from oncefleet.jobs where id = \${id} and fence = \${fence} and`,
    replace: `from oncefleet.jobs where id = \${id} and`,
    mechanism: 'a transaction is held to its fence',
    test: 'test/db/claim-table.test.ts',
    title: 'cannot hold its fence in a transaction',
  },
  {
    name: 'lock-fence-share',
    find: 'for key share`.execute(trx)',
    replace: '`.execute(trx)',
    mechanism: 'a transaction keeps takeovers out until it ends',
    test: 'test/db/claim-table.test.ts',
    title: 'a heartbeat passes and a takeover waits its turn',
  },
  {
    name: 'lock-fence-heartbeat',
    find: 'for key share`.execute(trx)',
    replace: 'for update`.execute(trx)',
    mechanism: 'a transaction lets heartbeats pass',
    test: 'test/db/claim-table.test.ts',
    title: 'a heartbeat passes and a takeover waits its turn',
  },
] satisfies readonly Change[];
