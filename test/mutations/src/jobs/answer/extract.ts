import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'absent-stop-words',
    find: 'if (lexemes[index]?.length === 0) missing.delete(word);',
    replace: ';',
    mechanism: 'a stop word of a question in another language than the texts is not said to be missing',
    test: 'test/jobs/answer/retrieval.test.ts',
    title: '%s',
  },
] satisfies readonly Change[];
