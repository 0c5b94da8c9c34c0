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
  {
    name: 'chunk-place',
    find: '${batch.map(({ start }) => start)}::integer[], ${batch.map(({ end }) => end)}::integer[],',
    replace: '${batch.map(({ end }) => end)}::integer[], ${batch.map(({ end }) => end)}::integer[],',
    mechanism: 'a chunk has its place in the text',
    test: 'test/client/places.test.ts',
    title: 'is the part of the text that has it: %s',
  },
  {
    name: 'chunk-page',
    find: 'batch.map(({ page }) => page ?? null)',
    replace: 'batch.map(() => null)',
    mechanism: 'a chunk has its page',
    test: 'test/client/places.test.ts',
    title: 'has the page on which it begins, in chunks and in the sources of answers',
  },
] satisfies readonly Change[];
