import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'probe-published',
    find: '() => this.#probes?.listener?.published(performance.now() - startedAt, count)',
    replace: '() => undefined',
    mechanism: 'publishing is measured',
    test: 'test/telemetry/metrics.test.ts',
    title: 'measures flushes and publishing, pools, and the event loop',
  },
  {
    name: 'probe-skipped',
    find: "this.#probes?.listener?.unpublished('skipped', count);",
    replace: '',
    mechanism: 'live messages that Redis is not given are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts live messages that Redis was not given',
  },
] satisfies readonly Change[];
