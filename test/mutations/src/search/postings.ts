import type { Change } from '../../mutation.ts';

const test = 'test/search/postings.test.ts';

export default [
  {
    name: 'postings-shared',
    find: 'if (at > 0 && shared < known) return undefined;',
    replace: 'if (at > 0 && shared < known) known = 0;',
    mechanism: 'a look-up ends where terms become greater',
    test,
    title: 'gives every term the postings that it was given, whatever they are',
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
