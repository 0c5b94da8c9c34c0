import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'job-data-mark',
    find: 'oncefleet !== FORMAT ||',
    replace: '',
    mechanism: 'jobs of other clients are told from ours',
    test: 'test/runs/deliveries.test.ts',
    title: 'runs a key once, whichever BullMQ job carries it, and a job without a key under its own id',
  },
  {
    name: 'own-id-first',
    find: `const jobId = typeof id === 'string' && isUuid(id) ? id : (named ?? id);`,
    replace: 'const jobId = named ?? id;',
    mechanism: 'a job of the fleet runs under its own id, whatever its data name',
    test: 'test/http/board-actions.test.ts',
    title: 'do not make one job another, if another client writes them so',
  },
] satisfies readonly Change[];
