import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redis-silence',
    find: 'redis.disconnect(true);',
    replace: '',
    mechanism: 'a connection to Redis that went half-open is made anew',
    test: 'test/db/half-open.slow.test.ts',
    title: 'are noticed by a connection that only listens',
  },
  {
    name: 'queue-slot',
    find: `return cluster ? \`{\${prefix}:\${queue}}\` : prefix;`,
    replace: 'return prefix;',
    mechanism: 'the keys of a queue are in one slot',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'jobs of several queues run, each queue in a slot of its own',
  },
] satisfies readonly Change[];
