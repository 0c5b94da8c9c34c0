import type { Change } from '../../mutation.ts';

const test = 'test/search/related.test.ts';
const DEFINITION = 'are those that the definition says, in any parts (%s)';

export default [
  {
    name: 'related-start',
    find: 'Math.ceil(SHARED_START * lexeme.length)',
    replace: 'lexeme.length',
    mechanism: 'words that begin alike are related',
    test,
    title: DEFINITION,
  },
  {
    name: 'related-end',
    find: 'if (lexeme.length >= LEAST_PART) startsWith(',
    replace: 'if (lexeme.length > MAX_WORD) startsWith(',
    mechanism: 'a compound that ends with a word is related to it',
    test,
    title: DEFINITION,
  },
  {
    name: 'related-parts',
    find: 'for (const part of partsOf(lexeme))',
    replace: 'for (const part of partsOf(lexeme).slice(1))',
    mechanism: 'the parts of a compound are related to it',
    test,
    title: DEFINITION,
  },
  {
    name: 'related-once',
    find: 'lexeme === this.#own || this.#added.has(key)',
    replace: 'lexeme === this.#own',
    mechanism: 'a word that two ranges bring is counted once',
    test,
    title: DEFINITION,
  },
  {
    name: 'related-bounded',
    find: 'const MAX_BLOCKS = 64;',
    replace: 'const MAX_BLOCKS = 1_000_000;',
    mechanism: 'a family so large that it says nothing is not read',
    test,
    title: 'are none where so many are that they say nothing',
  },
  {
    name: 'related-letters',
    find: '|| !WORD.test(lexeme)) continue;',
    replace: ') continue;',
    mechanism: 'only words of letters have relatives',
    test,
    title: 'are none of %s',
  },
  {
    name: 'related-less',
    find: 'export const RELATED_WEIGHT = 0.3;',
    replace: 'export const RELATED_WEIGHT = 3;',
    mechanism: 'a word of the question itself counts more than its relatives',
    test,
    title: 'has a passage with its own word before one with words written alike',
  },
] satisfies readonly Change[];
