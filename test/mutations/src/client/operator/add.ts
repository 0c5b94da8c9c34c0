import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-mark',
    find: `if (typeof data !== 'object' || data === null || !('oncefleet' in data)) return;`,
    replace: 'if (true) return;',
    mechanism: 'typed data make no job another',
    test: 'test/http/board-actions.test.ts',
    title: 'refuses a duplicate of a job of this fleet, whatever job its data name',
  },
  {
    name: 'board-add-name',
    find: 'requireName(host, queue, name); const { delay',
    replace: 'const { delay',
    mechanism: 'a name that no worker of the queue knows is not added',
    test: 'test/http/board-actions.test.ts',
    title: 'and adds nothing',
  },
] satisfies readonly Change[];
