import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'absent-words',
    find: 'strpos(f.text, word) > 0',
    replace: 'false',
    mechanism: 'a word is missing only where the texts do not have it',
    test: 'test/jobs/answer/retrieval.test.ts',
    title: 'not inside another word',
  },
] satisfies readonly Change[];
