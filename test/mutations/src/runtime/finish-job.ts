import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'delivery-ends-poisoned',
    find: 'alert === undefined ? Promise.resolve() : runtime.poisonAlerts.raise(definition, alert)',
    replace: 'Promise.resolve()',
    mechanism: 'a poisoned job raises the alert',
    test: 'test/runs/fences.test.ts',
    title: 'a delivery that meets a job which crashed too often ends it, with an alert',
  },
  {
    name: 'reconciler-publishes',
    find: 'runtime.publisher.publish([{ batch: finished.batch, end: true }]);',
    replace: '',
    mechanism: 'an ending from outside is announced',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'ends what crashed too often, with one terminal event and an alert, without any worker',
  },
] satisfies readonly Change[];
