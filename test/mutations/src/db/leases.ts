import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'renew-fence',
    find: `where j.id = l.id and j.fence = l.fence and j.status = 'running'`,
    replace: `where j.id = l.id and j.status = 'running'`,
    mechanism: 'a renewal is held to its fence',
    test: 'test/runs/fences.test.ts',
    title: 'at an old fence leaves the lease of the new owner as it is',
  },
  {
    name: 'renew-running',
    find: `where j.id = l.id and j.fence = l.fence and j.status = 'running'`,
    replace: 'where j.id = l.id and j.fence = l.fence',
    mechanism: 'only a running job is renewed',
    test: 'test/runs/fences.test.ts',
    title: 'gives no lease to a job that was settled',
  },
  {
    name: 'renew-limited',
    find: 'and (j.limit_keys is null or j.lease_expires_at > clock_timestamp())',
    replace: '',
    mechanism: 'a lease that has run out does not come back where its place under a limit is free',
    test: 'test/runs/fences.test.ts',
    title: 'revives a lease that has run out, but not that of a job under a limit: its place is free',
  },
] satisfies readonly Change[];
