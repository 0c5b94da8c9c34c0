import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'row-options-attempts',
    find: 'attempts: Math.ceil(clamp(attempts, ATTEMPTS)),',
    replace: 'attempts: attempts as number,',
    mechanism: 'attempts that are no number are one attempt',
    test: 'test/runs/odd-numbers.test.ts',
    title: 'ends within its attempts: attempts of %s',
  },
  {
    name: 'row-options-backoff',
    find: '...(Number.isNaN(toNumber(jitter)) ? {} : { jitter: clamp(jitter, JITTER) }),',
    replace: '...(jitter === undefined ? {} : { jitter: jitter as number }),',
    mechanism: 'a backoff is within its bounds, whoever wrote it',
    test: 'test/numbers.test.ts',
    title: 'are ones to work with, where the row has %s',
  },
] satisfies readonly Change[];
