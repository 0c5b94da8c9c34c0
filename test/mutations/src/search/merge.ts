import type { Change } from '../../mutation.ts';

const test = 'test/search/search-index.test.ts';

export default [
  {
    name: 'merge-skips-removed',
    find: 'for (let n = 0; n < chunkCount; n++) numbers[chunk++] = gone ? -1 : next++;',
    replace: 'for (let n = 0; n < chunkCount; n++) numbers[chunk++] = next++;',
    mechanism: 'a merge leaves out the postings of removed documents',
    test,
    title: 'keeps parts few, and changes nothing that a search finds',
  },
  {
    name: 'merge-contended',
    find: 'if (parts.length < ids.length) return false;',
    replace: '',
    mechanism: 'parts that another process merges are left alone',
    test,
    title: 'leaves alone what another process is merging',
  },
  {
    name: 'merge-tiers',
    find: 'const tier = Math.floor(Math.log2(Math.max(1, chunkCount)) / 3);',
    replace: 'const tier = chunkCount;',
    mechanism: 'parts of about one size are merged',
    test,
    title:
      'takes eight parts of about one size, all where many documents are gone, and none beyond half a million chunks',
  },
] satisfies readonly Change[];
