import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'abandon-fence',
    find: 'const fence = row.fence + 1;',
    replace: 'const fence = row.fence;',
    mechanism: 'ending a job from outside raises its fence',
    test: 'test/db/jobs/claim-table.test.ts',
    title:
      'a job that crashed more than maxCrashes times is to be ended as poisoned, one that did so maxCrashes times runs',
  },
  {
    name: 'abandon-held',
    find: 'if (row === undefined || row.held) return undefined;',
    replace: 'if (row === undefined) return undefined;',
    mechanism: 'a job that somebody runs is not ended from outside',
    test: 'test/runs/fences.test.ts',
    title: 'leaves a job alone while its lease lives',
  },
  {
    name: 'abandon-terminal',
    find: `.where('status', 'in', ['pending', 'running']).forUpdate()`,
    replace: '.forUpdate()',
    mechanism: 'a terminal row is not ended again',
    test: 'test/runs/fences.test.ts',
    title: 'never changes a terminal row',
  },
  {
    name: 'alert-noted',
    find: 'if (alert !== undefined) await insertPoisonAlert(trx, alert);',
    replace: '',
    mechanism: 'the alert of a poisoned job is noted with its end',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that throws is called again after a while, until it resolves',
  },
  {
    name: 'list-abandoned',
    find: `await trx.deleteFrom('unfinished_jobs').where('job_id', '=', id).execute();`,
    replace: '',
    mechanism: 'who ends an abandoned job takes it off the list of the unfinished',
    test: 'test/runs/model.test.ts',
    title: 'Postgres and the model agree after every step of any interleaving',
  },
  {
    name: 'abandon-dropped',
    find: `if (ended.numUpdatedRows === 0n) throw writeDropped('the end', { id, fence });`,
    replace: '',
    mechanism: 'an end from outside that changes no row is rolled back',
    test: 'test/runs/dropped-writes.test.ts',
    title: 'an end from outside that is dropped adds nothing to the stream',
  },
] satisfies readonly Change[];
