import type { Change } from '../../mutation.ts';

const TEST = 'test/http/ready.slow.test.ts';

export default [
  {
    name: 'health-write',
    find: 'write: () => probeWrite(db.kysely),',
    replace: 'write: async () => undefined,',
    mechanism: 'a process is not ready while Postgres takes no writes',
    test: TEST,
    title: 'is read-only, it says so, and is ready again when that ends',
  },
  {
    name: 'health-disk',
    find: "return isRecent ? { message: 'a statement was refused: the disk is full', reason: 'disk-full' } : undefined;",
    replace: 'return undefined;',
    mechanism: 'a process whose statement found the disk full is not ready',
    test: TEST,
    title: 'has no disk left for what a request stores, it says so, though a check finds room',
  },
  {
    name: 'health-rate',
    find: 'performance.now() - this.#writtenAt >= WRITE_EVERY_MS',
    replace: 'true',
    mechanism: 'checks do not write as often as they are asked for',
    test: TEST,
    title: 'writes at most once in two seconds, however often it is made, and nothing where the role may not',
  },
] satisfies readonly Change[];
