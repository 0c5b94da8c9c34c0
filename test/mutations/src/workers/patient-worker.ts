import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redis-patient',
    find: 'await this.#pause(Math.min(FIRST_PAUSE_MS * 2 ** this.#refusals++, LONGEST_PAUSE_MS));',
    replace: '',
    mechanism: 'a worker that is refused a job waits before it asks again',
    test: 'test/redis/refusals.test.ts',
    title: 'that answers with an error each time is asked with pauses',
  },
  {
    name: 'redis-unreadable',
    find: 'const removed = isUnreadable(error) ? await this.#remove(args[0]).catch(() => undefined) : undefined;',
    replace: 'const removed = undefined;',
    mechanism: 'a job that cannot be read is removed from BullMQ, not fetched once in every lease',
    test: 'test/runtime/odd-keys.test.ts',
    title: 'it is added again from its row, and runs',
  },
] satisfies readonly Change[];
