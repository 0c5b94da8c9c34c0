import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'cancel-asked-again',
    find: 'for (const id of ids) this.#wanted.add(id);',
    replace: '',
    mechanism: 'a cancel that comes while Postgres is unreachable is looked at when it answers',
    test: 'test/runtime/cancels.test.ts',
    title: 'are asked for until Postgres answers',
  },
  {
    name: 'cancel-asks-row',
    find: 'for (const id of await findCancelRequested(db, ids)) leases.cancel(id);',
    replace: 'for (const id of ids) leases.cancel(id);',
    mechanism: 'a message that asks for a cancel is believed only if the row says so',
    test: 'test/runs/forged-redis.test.ts',
    title: 'cancels nothing: the row says whether a cancel was requested',
  },
] satisfies readonly Change[];
