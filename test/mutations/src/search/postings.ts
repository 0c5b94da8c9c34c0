import type { Change } from '../../mutation.ts';

const test = 'test/search/postings.test.ts';

export default [
  {
    name: 'postings-shared',
    find: 'if (at > 0 && shared < known) return undefined;',
    replace: '',
    mechanism: 'a look-up ends where terms become greater',
    test,
    title: 'has no postings of a term that it was not given',
  },
  {
    name: 'postings-room',
    find: 'if (bytes + size > room) break;',
    replace: '',
    mechanism: 'a long list is cut into blocks',
    test,
    title: 'fits in half a page of Postgres',
  },
] satisfies readonly Change[];
