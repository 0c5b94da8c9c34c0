import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'metrics-outcomes',
    find: 'if (OUTCOMES.has(type)) this.#add',
    replace: "if (type === 'completed') this.#add",
    mechanism: 'every end of a job is counted as an outcome',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts transitions, outcomes, errors, run times and tokens at the door, each once',
  },
  {
    name: 'metrics-tokens-checked',
    find: "typeof tokens === 'number' && Number.isFinite(tokens) && tokens > 0",
    replace: 'tokens !== undefined',
    mechanism: 'of a usage only numbers of tokens are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'a handler may say anything of its usage: what is no number of tokens is not counted',
  },
  {
    name: 'metrics-quiet-again',
    find: 'unobserve(); runtime.probes.listener = undefined;',
    replace: '',
    mechanism: 'after close() nothing is put together any more',
    test: 'test/telemetry/metrics.test.ts',
    title: 'without a listener nothing is put together: close() takes it away',
  },
  {
    name: 'metrics-no-old-rows',
    find: 'if (ofRows !== true) continue;',
    replace: 'if (ofRows === true) continue;',
    mechanism: 'gauges of rows that could not be read are left out',
    test: 'test/telemetry/rows.test.ts',
    title: 'are left out while Postgres does not answer in time: an old value would look like one of now',
  },
] satisfies readonly Change[];
