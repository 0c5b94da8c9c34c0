import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'cancel-live-bus',
    find: 'runtime.control.listen((jobId) => runtime.cancels.look(jobId));',
    replace: '',
    mechanism: 'a cancel comes through the live bus',
    test: 'test/runtime/wake-up.test.ts',
    title: 'a cancel through the live bus reaches the run long before the next heartbeat',
  },
  {
    name: 'outage-lost-claim',
    find: 'this.#keepOwner(delivery, owner); return this.#withoutStore',
    replace: 'return this.#withoutStore',
    mechanism: 'a claim whose answer was lost keeps its owner for the next delivery',
    test: 'test/runtime/outages.slow.test.ts',
    title: 'after it committed a claim and before it said so: the next delivery goes on with that claim',
  },
  {
    name: 'outage-run',
    find: `if (spec.policy.onStoreOutage === 'run' && input !== undefined)`,
    replace: 'if (input === undefined)',
    mechanism: 'onStoreOutage run runs a job although Postgres is away',
    test: 'test/runtime/outages.slow.test.ts',
    title: 'and the job says onStoreOutage run: it runs unguarded, and its outcome is stored afterwards',
  },
  {
    name: 'outage-defer',
    find: `if (spec.policy.onStoreOutage === 'run' && input !== undefined)`,
    replace: 'if (input !== undefined)',
    mechanism: 'nothing runs unguarded unless it says so',
    test: 'test/runtime/wake-up.test.ts',
    title: 'a delivery that finds Postgres away is deferred, also when it carries its input',
  },
  {
    name: 'early-bullmq',
    find: 'early: spec.transparent || ran,',
    replace: 'early: false,',
    mechanism: 'around a processor of a user’s own a promoted job runs at once',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'a delay that it asked for is the row’s, so that nothing makes the job due before',
  },
  {
    name: 'early-deferred',
    find: 'return delivery.defer(Math.max(answer.dueInMs, 0) + 1);',
    replace: 'return delivery.defer(7_200_000);',
    mechanism: 'a delivery that comes early comes again when its job is due',
    test: 'test/runs/deliveries.test.ts',
    title: 'that comes before its job is due is put off until then',
  },
] satisfies readonly Change[];
