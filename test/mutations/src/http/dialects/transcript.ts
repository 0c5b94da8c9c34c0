import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'transcript-superseded',
    find: 'mark.seq >= from',
    replace: 'mark.seq > from',
    mechanism: 'an attempt takes back what is at its start, too',
    test: 'test/http/dialects/responses.test.ts',
    title: 'obeys the order of a response: created first and once, items in their places, the ending last',
  },
] satisfies readonly Change[];
