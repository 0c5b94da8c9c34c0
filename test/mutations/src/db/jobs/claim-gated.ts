import type { Change } from '../../../mutation.ts';

const TEST = 'test/db/jobs/claim-gated.test.ts';

export default [
  {
    name: 'gated-places',
    find: 'await keepPlaces(trx, claimed);',
    replace: '',
    mechanism: 'a claim takes its place',
    test: TEST,
    title: 'gives out as many places as there are, in one batch and in several, and the row says that it waits',
  },
  {
    name: 'gated-batch',
    find: 'state.free--;',
    replace: '',
    mechanism: 'a place goes to one job of a batch',
    test: TEST,
    title: 'gives out as many places as there are, in one batch and in several, and the row says that it waits',
  },
  {
    name: 'gated-in-line',
    find: 'return free > kept && (!waiting || free === Number.POSITIVE_INFINITY);',
    replace: 'return free > kept;',
    mechanism: 'who comes first is served first',
    test: TEST,
    title: 'one that comes while others wait queues behind them, though a place is free',
  },
  {
    name: 'gated-given-back',
    find: '...(kept === null || kept === key ? [] : [{ key: kept, againInMs: 0 }]),',
    replace: '',
    mechanism: 'a place that was kept in vain goes to another',
    test: TEST,
    title: 'a job of two keys takes both places or none, and gives the one back that was kept for it',
  },
  {
    name: 'gated-crashed',
    find: 'if (job.kept_key === key || job.crashed) return free > 0;',
    replace: 'if (job.kept_key === key) return free > 0;',
    mechanism: 'a job that has lost its worker does not queue behind those that have not started',
    test: TEST,
    title: 'a lease that expires gives its place back, and the job that lost it comes first',
  },
] satisfies readonly Change[];
