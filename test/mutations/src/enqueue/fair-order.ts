import type { Change } from '../../mutation.ts';

const TEST = 'test/enqueue/fair-order.test.ts';

export default [
  {
    name: 'fair-newcomer',
    find: '/ 4294967296) - 1',
    replace: '/ 4294967296) + 1000',
    mechanism: 'a tenant that has nothing waiting starts before the tag that is served',
    test: TEST,
    title: 'starts a job of a tenant that has nothing waiting next, however many another has',
  },
  {
    name: 'fair-weights',
    find: '(JOBS_PER_TAG * (this.#weights.get(tenant) ?? 1))',
    replace: 'JOBS_PER_TAG',
    mechanism: 'a tenant is served by its weight',
    test: TEST,
    title: 'serves tenants in turns by weight',
  },
  {
    name: 'fair-history',
    find: "local first = math.max(tonumber(redis.call('HGET', KEYS[4], tenant) or '0'), start, 1)",
    replace: 'local first = math.max(start, 1)',
    mechanism: 'what a tenant has had counts for its next turn',
    test: TEST,
    title: 'stays that of enqueues within a tenant',
  },
  {
    name: 'fair-on-the-way',
    find: "elseif now - tonumber(redis.call('HGET', KEYS[4], '') or '0') > 1000 then",
    replace: 'else',
    mechanism: 'jobs on their way to Redis are not overtaken by later ones of their tenant',
    test: TEST,
    title: 'while tagged jobs may be on their way is that of their tags',
  },
  {
    name: 'fair-priorities',
    find: "if redis.call('EXISTS', KEYS[5]) == 1 then return given end",
    replace: '',
    mechanism: 'priorities of jobs come before turns of tenants',
    test: TEST,
    title: 'is left to priorities where jobs have some',
  },
  {
    name: 'fair-not-due',
    find: 'delayMs < 0.5',
    replace: 'delayMs < Infinity',
    mechanism: 'a job that is not due gets no tag of today',
    test: TEST,
    title: 'leaves out what is not due',
  },
  {
    name: 'fair-unasked',
    find: 'known.left = few === 1 ? UNASKED_JOBS : 0;',
    replace: 'known.left = 0;',
    mechanism: 'a short queue costs no question a job',
    test: TEST,
    title: 'asks Redis once for many small batches',
  },
] satisfies readonly Change[];
