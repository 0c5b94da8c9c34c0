import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'session-asked',
    find: 'await Promise.all([runtime.requirePostgres(), runtime.requireRedis([...options.queues])]);',
    replace: 'await runtime.requireRedis([...options.queues]);',
    mechanism: 'a worker does not start with a session that breaks what it does',
    test: 'test/db/session.test.ts',
    title: '%s = %s',
  },
  {
    name: 'worker-close-first',
    find: 'let drained = false;',
    replace: 'await Promise.all([reconciler.close(), sweeper.close()]); let drained = false;',
    mechanism: 'a worker that closes starts nothing while its reconciler ends',
    test: 'test/workers/concurrency.test.ts',
    title: 'go back to their queue when their worker closes, however long its reconciler takes to end',
  },
  {
    name: 'alert-looks',
    find: 'runtime.poisonAlerts.know([...specs.values()], options.reconcileMs)',
    replace: '() => undefined',
    mechanism: 'a worker looks after alerts that others left behind',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that throws is called again after a while, until it resolves',
  },
  {
    name: 'worker-obeys-pauses',
    find: 'await obeyPauses(runtime, [...options.queues]);',
    replace: '',
    mechanism: 'a worker that starts looks for pauses first',
    test: 'test/runtime/pauses.test.ts',
    title: 'is obeyed by a worker that starts after Redis has lost it',
  },
  {
    name: 'worker-farewell',
    find: 'within(FAREWELL_MS, closed, () => undefined)',
    replace: 'new Promise((resolve) => setTimeout(resolve, FAREWELL_MS))',
    mechanism: 'a worker that has closed no longer waits for BullMQ',
    test: 'test/workers/concurrency.test.ts',
    title: 'a fleet that is closed leaves no timer behind, which would keep its process alive',
  },
  {
    name: 'left-looked-for',
    find: 'leftJobs.start();',
    replace: '',
    mechanism: 'a worker looks for jobs that were left before it came',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'runs, also where that worker comes when it waits for long, and spends no attempt',
  },
] satisfies readonly Change[];
