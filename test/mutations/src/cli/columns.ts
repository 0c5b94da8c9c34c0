import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'columns-width',
    find: 'return stringWidth(text);',
    replace: 'return text.length;',
    mechanism: 'tables are as wide as a terminal shows them',
    test: 'test/cli/output.test.ts',
    title: 'are filled by what a person sees, not by code units',
  },
] satisfies readonly Change[];
