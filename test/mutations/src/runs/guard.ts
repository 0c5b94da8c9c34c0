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
] satisfies readonly Change[];
