import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'terminal-note',
    find: 'if (!json) stderr.write(`${renderLine(text)}\\n`);',
    replace: 'if (!json) stderr.write(`${text}\\n`);',
    mechanism: 'remarks go through the door of the terminal too',
    test: 'test/cli/outside-texts.test.ts',
    title: 'does not get through the terminal or the screen of the demo',
  },
] satisfies readonly Change[];
