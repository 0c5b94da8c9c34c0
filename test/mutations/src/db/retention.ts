import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'alert-retention',
    find: 'delete from oncefleet.poison_alerts a using victim v where a.job_id = v.id',
    replace: 'select 1',
    mechanism: 'a job that is removed takes its alerts along',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'removes events first and the job later, each at its own limit, and says what is gone',
  },
  {
    name: 'retention-lock',
    find: 'for update of j skip locked',
    replace: '',
    mechanism: 'removal passes over jobs that somebody holds',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'leaves a job that is redriven just then, and what is locked until later',
  },
  {
    name: 'retention-key-ttl',
    find: `greatest(\${due}, case when \${due} is not null then j.expires_at end)`,
    replace: `\${due}`,
    mechanism: 'a job is kept while its key is held',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'keeps a job while its key is held by it, and lets the key start anew afterwards',
  },
  {
    name: 'retention-later',
    find: 'await putDown(trx, kind, later, defaults);',
    replace: '',
    mechanism: 'what the walk meets too early is put down for later',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'never removes a job that has not ended, and removes it in time when it ends late',
  },
  {
    name: 'retention-policy',
    find: `coalesce(\${column}, \${String(standard)}::float8)`,
    replace: `\${String(standard)}::float8`,
    mechanism: 'a tenant has limits of its own',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'follows the policy of the tenant, which may be longer, shorter or never',
  },
  {
    name: 'retention-kept-from',
    find: 'kept_from = h.next_seq, fold_due = null',
    replace: 'fold_due = null',
    mechanism: 'a head says what is left of its stream',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'of a redriven job leaves what came after the removal, readable from there on',
  },
] satisfies readonly Change[];
