import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'foreign-by-source',
    find: 'if (job.attemptsStarted > 1 || rowId !== undefined) {',
    replace: 'if (false) {',
    mechanism: 'a job that comes again is found by what it is',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'are what the next attempt gets, also after a flush: %s',
  },
  {
    name: 'foreign-count',
    find: 'if (namedRow(job) === claimed.id) job.attemptsMade',
    replace: 'if (false) job.attemptsMade',
    mechanism: 'after a flush the attempts are counted on',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'counts on after a flush: the attempts that are left are as many as there were',
  },
  {
    name: 'foreign-scope',
    find: 'const keyScope = spec.transparent ?',
    replace: 'const keyScope = !spec.transparent ?',
    mechanism: 'the queue is in the scope of a key',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'has the queue in it: two queues with one name, key and input run both',
  },
  {
    name: 'rerun-keyed',
    find: 'keyless: given === undefined,',
    replace: 'keyless: true,',
    mechanism: 'a job with a key has one outcome whatever is retried',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'runs it again where it has no key, and gives its outcome where it has one',
  },
  {
    name: 'warn-scheduler',
    find: 'this.#warnedOf.add(schedule);',
    replace: '',
    mechanism: 'a scheduler is warned of once',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'whose template has a key is warned of once',
  },
  {
    name: 'limits-foreign',
    find: 'const limitKeys = spec.limitKeysOf?.({ input, tenant });',
    replace: 'const limitKeys = undefined;',
    mechanism: 'jobs of other BullMQ clients have the limits of their definition',
    test: 'test/runtime/limits.test.ts',
    title: 'that another BullMQ client added has the same limit',
  },
] satisfies readonly Change[];
