import type { Change } from '../mutation.ts';

export default [
  {
    name: 'crash-point-published',
    find: 'if (points.hasSubscribers) points.publish({ point });',
    replace: '',
    mechanism: 'a crash point tells its subscribers',
    test: 'test/runs/crash-points.slow.test.ts',
    title: 'the job runs again',
  },
] satisfies readonly Change[];
