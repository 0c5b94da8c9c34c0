import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'label-bound',
    find: 'this.#known.size >= this.#max || value.length > MAX_LENGTH',
    replace: 'value.length > MAX_LENGTH',
    mechanism: 'a label has a bounded number of values',
    test: 'test/telemetry/metrics.test.ts',
    title: 'a label has a bounded number of values; the others are "other", and nothing is lost',
  },
  {
    name: 'label-length',
    find: 'this.#known.size >= this.#max || value.length > MAX_LENGTH',
    replace: 'this.#known.size >= this.#max',
    mechanism: 'a value of a label is bounded',
    test: 'test/telemetry/metrics.test.ts',
    title: 'a handler may say anything of its usage: what is no number of tokens is not counted',
  },
] satisfies readonly Change[];
