import type { Change } from '../../mutation.ts';

const TEST = 'test/runtime/require-redis.test.ts';

export default [
  {
    name: 'cluster-untold',
    find: "if (mode === 'cluster' && !needs.cluster)",
    replace: 'if (false)',
    mechanism: 'a worker that was not told of a Cluster does not start',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'has no worker that starts, and is told which setting to change',
  },
  {
    name: 'redis-rights',
    find: 'problems.push(...(await findDenied(redis, needs)));',
    replace: '',
    mechanism: 'a process does not start with a user of Redis that may not run what BullMQ needs',
    test: TEST,
    title: 'without a command that BullMQ or we need is refused, and the command is named',
  },
  {
    name: 'redis-replica-at-start',
    find: "if ((role === 'replica' || role === 'slave') && !needs.cluster)",
    replace: 'if (false)',
    mechanism: 'a process does not start with a replica',
    test: TEST,
    title: 'that is a replica is refused',
  },
  {
    name: 'redis-start-bounded',
    find: 'await within(ASK_LIMIT_MS, ',
    replace: 'await within(ASK_LIMIT_MS * 100, ',
    mechanism: 'a Redis that says nothing does not keep a process from starting',
    test: TEST,
    title: 'that answers the first question alone holds nobody up for long',
  },
] satisfies readonly Change[];
