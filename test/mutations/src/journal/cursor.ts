import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'cursor-fence',
    find: `return immediate ? \`\${fence}-\${seq}\` : seq;`,
    replace: 'return seq;',
    mechanism: 'a cursor of an immediate stream says whose event it was',
    test: 'test/journal/immediate.test.ts',
    title: 'is read before its commit, with cursors that say whose event it was',
  },
] satisfies readonly Change[];
