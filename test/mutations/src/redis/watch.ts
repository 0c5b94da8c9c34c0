import type { Change } from '../../mutation.ts';

const TEST = 'test/redis/refusals.test.ts';

export default [
  {
    name: 'redis-demoted',
    find: "return kind === 'READONLY' && this.#reconnect() ? RESEND : false;",
    replace: 'return false;',
    mechanism: 'connections to a demoted primary are made anew, and the refused command is sent again',
    test: TEST,
    title: 'for another behind the same address: workers, clients and followers go there',
  },
  {
    name: 'redis-demoted-all',
    find: "if (redis instanceof Redis && redis.status === 'ready') redis.disconnect(true);",
    replace: '',
    mechanism: 'all connections of a process leave a demoted primary, also those that are refused nothing',
    test: TEST,
    title: 'for another behind the same address: workers, clients and followers go there',
  },
  {
    name: 'redis-refused-once',
    find: 'if (this.#kind !== kind) this.#log.warn(',
    replace: 'this.#log.warn(',
    mechanism: 'the log has one line for each change of what Redis refuses',
    test: TEST,
    title: 'jobs are accepted, running ones finish, readers read; one line, no flood, nothing lost',
  },
] satisfies readonly Change[];
