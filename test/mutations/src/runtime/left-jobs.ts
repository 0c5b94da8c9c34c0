import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'left-due',
    find: 'await findDue(db.kysely, ids.filter(isUuid))',
    replace: 'ids.filter(isUuid)',
    mechanism: 'a job that waits for its backoff is not promoted',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'waits for its backoff all the same',
  },
] satisfies readonly Change[];
