import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'maintenance-reconciles',
    find: 'reconciler.start();',
    replace: '',
    mechanism: 'maintenance ends what no worker delivers any more',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'maintenance ends what no worker delivers any more',
  },
] satisfies readonly Change[];
