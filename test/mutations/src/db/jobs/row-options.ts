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
  {
    name: 'trace-kept',
    find: '...(carrier === undefined ? {} : { trace: carrier }),',
    replace: '',
    mechanism: 'a row gives back the context it keeps',
    test: 'test/telemetry/tracing.test.ts',
    title: 'one trace over the enqueue, an attempt that fails, one that completes, and the follower',
  },
] satisfies readonly Change[];
