import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'answer-turn',
    find: 'await this.#terminal.line(`-- ${text} --`);',
    replace: 'this.#terminal.note(`-- ${text} --`);',
    mechanism: 'an answer that starts again says so where its text is',
    test: 'test/cli/output.test.ts',
    title: 'that starts over says so where its text is',
  },
] satisfies readonly Change[];
