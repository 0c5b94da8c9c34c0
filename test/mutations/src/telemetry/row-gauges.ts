import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'rows-fresh',
    find: 'this.#read === undefined || performance.now() - this.#readAt >= freshMs',
    replace: 'this.#read !== null',
    mechanism: 'several scrapes cost one statement',
    test: 'test/telemetry/rows.test.ts',
    title: 'are read once for all who ask within some seconds',
  },
] satisfies readonly Change[];
