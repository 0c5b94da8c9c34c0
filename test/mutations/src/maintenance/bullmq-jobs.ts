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
] satisfies readonly Change[];
