import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sse-drain-grace',
    find: 'for (const stream of streams) stream.destroy();',
    replace: '',
    mechanism: 'a drain does not wait for a reader that takes nothing',
    test: 'test/http/stream-faults.test.ts',
    title: 'cuts off a reader that takes nothing, and closes',
  },
] satisfies readonly Change[];
