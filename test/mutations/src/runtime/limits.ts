import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'limits-lost-wake',
    find: 'return this.#wake(waiting);',
    replace: 'return 0;',
    mechanism: 'the reconciler makes up for lost wakes',
    test: 'test/runtime/limits.test.ts',
    title: 'whose wake was lost is found by the reconciler',
  },
  {
    name: 'limits-window-wake',
    find: 'this.wake([key]);',
    replace: '',
    mechanism: 'a place that comes free by time wakes a job',
    test: 'test/runtime/limits.test.ts',
    title: 'of a rate starts when the window has room again, without the reconciler',
  },
] satisfies readonly Change[];
