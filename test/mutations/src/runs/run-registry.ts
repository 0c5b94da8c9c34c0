import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'interrupt-at-deadline',
    find: 'stop.abort(new InterruptedError(jobId));',
    replace: 'void jobId;',
    mechanism: 'an interrupt aborts the runs',
    test: 'test/runs/deliveries.test.ts',
    title: 'interrupts its runs at the deadline; another finishes them, and nothing counts as crash or error',
  },
  {
    name: 'give-up-events',
    find: 'for (const { stream } of this.#runs.values()) stream?.refuse(',
    replace: 'for (const { stream } of new Map<Stop, { stream: StreamWriter }>().values()) stream?.refuse(',
    mechanism: 'a worker that ends while Postgres is unreachable gives up the events that its outcomes wait for',
    test: 'test/workers/sigterm.slow.test.ts',
    title: 'ends although Postgres is away, its journal %s',
  },
] satisfies readonly Change[];
