import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'channel-sharded',
    find: 'redis.spublish(channel, message)',
    replace: 'redis.publish(channel, message)',
    mechanism: 'on a Cluster messages go to the node that has their slot',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'followers hear of events by sharded pub/sub, on the node that has the slot',
  },
  {
    name: 'control-sharded',
    find: 'redis.ssubscribe(...channels)',
    replace: 'redis.subscribe(...channels)',
    mechanism: 'on a Cluster cancels are heard by sharded pub/sub',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'a cancel reaches the worker that runs the job',
  },
] satisfies readonly Change[];
