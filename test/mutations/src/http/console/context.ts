import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'console-scope',
    find: 'if (!can(viewer as Viewer, scope))',
    replace: 'if (viewer === undefined)',
    mechanism: 'a person may do in the console what the token may',
    test: 'test/http/console/console.test.ts',
    title: 'needs the scope of it',
  },
] satisfies readonly Change[];
