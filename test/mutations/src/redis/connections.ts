import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redis-error-answers',
    find: 'if (err instanceof ReplyError) answered();',
    replace: '',
    mechanism: 'an error is an answer: a connection that is refused a PING stays',
    test: 'test/redis/refusals.test.ts',
    title: 'a question whether the connection lives: an error is an answer, and the connection stays',
  },
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
