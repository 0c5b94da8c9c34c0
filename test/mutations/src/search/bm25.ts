import type { Change } from '../../mutation.ts';

const test = 'test/search/search-index.test.ts';

export default [
  {
    name: 'search-removed',
    find: 'if (score > best.least && removed?.[number] !== 1) best.add',
    replace: 'if (score > best.least) best.add',
    mechanism: 'chunks of removed documents take no place among the best',
    test,
    title: 'what was removed takes no place among the best',
  },
  {
    name: 'search-counts-live',
    find: 'else for (const number of list.numbers) count += removed[number] === 1 ? 0 : 1;',
    replace: 'else count += list.numbers.length;',
    mechanism: 'a term occurs in as many chunks as there are',
    test,
    title: 'equal a count of its texts after any ingests, replacements, deletes and crashes',
  },
  {
    name: 'search-length',
    find: 'K1 * (1 - B + (B * lengthOfCode(code)) / average)',
    replace: 'K1 * (1 - B + B)',
    mechanism: 'a long chunk counts less',
    test,
    title: 'ranks a rare word above a common one, and a short chunk above a long one',
  },
] satisfies readonly Change[];
