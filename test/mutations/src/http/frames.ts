import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sse-shared-skip',
    find: 'batch.skip(made.count);',
    replace: '',
    mechanism: 'a reader that is given shared frames has their events',
    test: 'test/http/frames.test.ts',
    title: 'are made once, and each reader is taken to have as many events as they hold',
  },
  {
    name: 'sse-dialect-cache',
    find: 'const cache = cacheOf(dialect.common ?? dialect);',
    replace: 'const cache = cacheOf(frameOf as never);',
    mechanism: 'frames are shared within a dialect alone',
    test: 'test/http/dialects.test.ts',
    title: 'that read the same stream at the same time are sent each its own bytes',
  },
] satisfies readonly Change[];
