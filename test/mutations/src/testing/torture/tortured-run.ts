import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'torture-dead',
    find: 'this.#dead = true;',
    replace: '',
    mechanism: 'a run that torture has crashed does not go on',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'leaves a dead run dead: nothing of it runs on, not even a finally',
  },
  {
    name: 'torture-connections',
    find: 'for (const client of [...this.#clients]) client.release(true);',
    replace: '',
    mechanism: 'the connections of a crashed run break',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'rolls back a transaction on ctx.db where its run dies or its connection breaks',
  },
  {
    name: 'torture-rollback',
    find: 'const value = await Promise.race([effects(trx), this.#death.promise]);',
    replace: 'const value = await effects(trx);',
    mechanism: 'ctx.transaction of a crashed run is rolled back',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'holds for the repaired one, whatever happens where',
  },
] satisfies readonly Change[];
