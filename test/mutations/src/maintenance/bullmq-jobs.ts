import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'doctor-cluster-nodes',
    find: `isSharded(redis) ? redis.nodes('master') : [redis]`,
    replace: `isSharded(redis) ? redis.nodes('master').slice(0, 1) : [redis]`,
    mechanism: 'the doctor asks every node of a Cluster',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'the doctor finds a queue that nobody registers any more, on whichever node it is',
  },
  {
    name: 'missing-lost',
    find: 'if (unplaced.length > 0) missing.push(...(await findLost(redis, queue, unplaced)));',
    replace: '',
    mechanism: 'the reconciler finds what BullMQ has in no list',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'finds what BullMQ has in no list, and leaves what is in one',
  },
  {
    name: 'delayed-own',
    find: 'return ids.filter((id, i) => isOwnData(id, stored[i]?.data));',
    replace: 'return [...ids];',
    mechanism: 'delayed jobs of other BullMQ clients are left alone',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'makes a delayed job due whose row has ended',
  },
  {
    name: 'late-promoted',
    find: 'if (!started || Math.abs(keptMs) > KEPT_MS) late.push(row);',
    replace: '',
    mechanism: 'a due job that a wrong clock keeps back is delivered',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'has BullMQ deliver a job that it keeps for later although it is due by Postgres’s clock, and leaves others',
  },
  {
    name: 'late-left',
    find: 'if (!started || Math.abs(keptMs) > KEPT_MS) late.push(row);',
    replace: 'late.push(row);',
    mechanism: 'a job that a worker has left to others is not brought back to it each round',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'has BullMQ deliver a job that it keeps for later although it is due by Postgres’s clock, and leaves others',
  },
] satisfies readonly Change[];
