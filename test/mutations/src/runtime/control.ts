import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'left-heard',
    find: 'if (isLeftJob(order?.left)) for (const listener of this.#onLeft) listener(order.left);',
    replace: '',
    mechanism: 'a worker hears of jobs that others have left',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'runs when another worker leaves it',
  },
] satisfies readonly Change[];
