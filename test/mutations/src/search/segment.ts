import type { Change } from '../../mutation.ts';

const test = 'test/search/segment.test.ts';

export default [
  {
    name: 'segment-pairs',
    find: '.replace(PAIRED, (run) =>',
    replace: '.replace(/(?!)/g, (run) =>',
    mechanism: 'what is written without spaces becomes pairs',
    test,
    title: '%s',
  },
  {
    name: 'segment-dictionary',
    find: '.replace(BY_DICTIONARY, (run) =>',
    replace: '.replace(/(?!)/g, (run) =>',
    mechanism: 'Thai is taken apart by a dictionary',
    test,
    title: '%s',
  },
  {
    name: 'segment-run',
    find: '々〆ー]{1,1000}/gu',
    replace: '々〆ー]+/gu',
    mechanism: 'a run without spaces is taken in pieces',
    test,
    title: '4 Mi characters of %s',
  },
  {
    name: 'segment-marks',
    find: ".replace(PUNCTUATION, ' ')",
    replace: '',
    mechanism: 'marks are taken out before they are folded into those of ASCII',
    test,
    title: '%s',
  },
  {
    name: 'segment-symbols',
    find: ".replace(MARKS, ' ')",
    replace: '',
    mechanism: 'no mark beyond ASCII is part of a word, whatever the locale of the database',
    test,
    title: 'any text, without a mark or an invisible character beyond ASCII',
  },
  {
    name: 'segment-invisible',
    find: ".replace(INVISIBLE, '')",
    replace: '',
    mechanism: 'soft hyphens and joiners do not divide a word',
    test,
    title: '%s',
  },
  {
    name: 'segment-vowels',
    find: ".replace(VOWELS, (pair) => (pair.startsWith('\\u0e4d') ? '\\u0e33' : '\\u0eb3'))",
    replace: '',
    mechanism: 'Thai vowels stay as the dictionary has them',
    test,
    title: '%s',
  },
] satisfies readonly Change[];
