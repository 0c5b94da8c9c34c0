import type { Change } from '../../mutation.ts';

const test = 'test/search/language.test.ts';

export default [
  {
    name: 'language-code',
    find: ".replace(FOREIGN, ' ')",
    replace: '',
    mechanism: 'code and addresses do not decide what language a document is in',
    test,
    title: '%j: %s',
  },
  {
    name: 'language-sample',
    find: 'twice ?? found[found.length >> 1]',
    replace: 'found[0]',
    mechanism: 'the language is that of beginning, middle and end',
    test,
    title: 'a long document is that of most of it, not that of its preface',
  },
  {
    name: 'language-short',
    find: 'if (letters < MIN_LETTERS && among === undefined)',
    replace: 'if (letters < 1 && among === undefined)',
    mechanism: 'a few letters are of no language',
    test,
    title: '%j: %s',
  },
  {
    name: 'language-among',
    find: '.filter(([code]) => among === undefined || (among as readonly string[]).includes(code))',
    replace: '',
    mechanism: 'a question has one of the languages of its collection',
    test,
    title: 'a question is one of those that come into question',
  },
  {
    name: 'language-script',
    find: 'if (written !== undefined)',
    replace: 'if (written === undefined && among === LANGUAGES)',
    mechanism: 'a script of one language alone decides, also between Latin names',
    test,
    title: '%j: %s',
  },
] satisfies readonly Change[];
