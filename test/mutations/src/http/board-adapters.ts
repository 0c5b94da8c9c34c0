import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'board-scheduler-name',
    find: 'if (scheduler !== undefined) this.#client.operator.requireName(this.#queue, scheduler.name);',
    replace: '',
    mechanism: 'a scheduler of a name that no worker knows is not run',
    test: 'test/http/board-actions.test.ts',
    title: 'is edited, run and removed as BullMQ does, but a name that no worker knows is not run',
  },
  {
    name: 'board-other-queues',
    find: `if (name === 'get /api/queues') await this.#beforeList();`,
    replace: '',
    mechanism: 'queues that rows name are looked for',
    test: 'test/http/board-actions.test.ts',
    title: 'appears on the board without a restart, once',
  },
] satisfies readonly Change[];
