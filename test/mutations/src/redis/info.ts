import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redis-without-info',
    find: "if (refusalOf(err)?.kind !== 'DENIED') throw err;",
    replace: 'if (err !== undefined) throw err;',
    mechanism: 'a user of Redis without INFO runs jobs',
    test: 'test/runtime/require-redis.test.ts',
    title: 'without INFO (-@dangerous) runs jobs, and what a flush took is dispatched again',
  },
] satisfies readonly Change[];
