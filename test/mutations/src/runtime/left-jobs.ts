import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'left-due',
    find: 'await findDue(db.kysely, await ids)',
    replace: 'await ids',
    mechanism: 'a job that waits for its backoff is not promoted',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'waits for its backoff all the same',
  },
  {
    name: 'left-bound',
    find: 'if (ids.size < MAX_PROMOTED) this.#left',
    replace: 'this.#left',
    mechanism: 'a burst of jobs that were left is promoted up to a bound',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'are promoted together, as many as the bound allows, however many are left at once',
  },
  {
    name: 'left-room',
    find: '|| !hasRoom()) return;',
    replace: ') return;',
    mechanism: 'a busy worker promotes no jobs that were left',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'are left where they are by a worker without room',
  },
] satisfies readonly Change[];
