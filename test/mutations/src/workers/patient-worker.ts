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
] satisfies readonly Change[];
