import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'reconciler-alive',
    find: 'const stop = keepAlive(trx);',
    replace: 'const stop = async () => {};',
    mechanism: 'a long round keeps its lock',
    test: 'test/maintenance/reconciler-processes.slow.test.ts',
    title: 'take over within seconds from a process that %s stopped in the middle of a round',
  },
  {
    name: 'reconciler-close',
    find: 'forgetRounds(db.kysely, workerId).catch(() => undefined)',
    replace: 'undefined',
    mechanism: 'a reconciler that closes leaves its turn to others',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'take over at once from one that is closed',
  },
  {
    name: 'probe-reconciled',
    find: 'if (repaired !== undefined) tell(repaired, false);',
    replace: '',
    mechanism: 'rounds of the reconciler are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts rounds of the reconciler',
  },
] satisfies readonly Change[];
