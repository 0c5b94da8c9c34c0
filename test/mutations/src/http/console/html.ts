import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'console-escaped',
    find: 'return escapeHtml(String(part));',
    replace: 'return String(part);',
    mechanism: 'what is put into a page is a text, not markup',
    test: 'test/http/console/console.test.ts',
    title: 'is shown, and no text of a job is markup in it: %s',
  },
] satisfies readonly Change[];
