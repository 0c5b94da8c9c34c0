import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'sse-rewind-id',
    find: 'rewind: (event) => formatFrame({ event:',
    replace: 'rewind: (event) => formatFrame({ id: cursorOf(event), event:',
    mechanism: 'a rewind frame leaves the cursor alone',
    test: 'test/http/immediate.test.ts',
    title: 'a reader that comes back with an event that was lost is told to rewind, in a frame without an id',
  },
] satisfies readonly Change[];
