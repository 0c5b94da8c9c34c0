import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'upload-counted',
    find: 'holdOf(request).grow(UPLOAD_HELD_BYTES);',
    replace: '',
    mechanism: 'an upload is counted by what is gathered of it',
    test: 'test/http/byte-budget.test.ts',
    title: 'is of an upload what is gathered of it, however long it is',
  },
] satisfies readonly Change[];
