import type { Change } from '../mutation.ts';

export default [
  {
    name: 'printable-controls',
    find: "    .replace(HIDDEN, '')\n",
    replace: '',
    mechanism: 'control characters of texts from outside are not printed',
    test: 'test/cli/outside-texts.test.ts',
    title: 'does not get through the terminal or the screen of the demo',
  },
  {
    name: 'printable-json',
    find: 'return json.replace(HIDDEN_IN_JSON, (character) =>',
    replace: 'return json.replace(/(?!)/g, (character) =>',
    mechanism: 'JSON on a terminal has escapes in the place of control characters',
    test: 'test/cli/outside-texts.test.ts',
    title: 'is still there in what --json writes',
  },
] satisfies readonly Change[];
