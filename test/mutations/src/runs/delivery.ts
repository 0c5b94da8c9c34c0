import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'deferral-wake-up',
    find: 'onBatch: (message) => message.end && promote(),',
    replace: 'onBatch: () => undefined,',
    mechanism: 'a deferred delivery is woken when the run ends',
    test: 'test/runtime/wake-up.test.ts',
    title: 'a deferred delivery is woken when the run ends, long before the lease would',
  },
  {
    name: 'own-error',
    find: 'decideRetry(this.job, undefined); throw verdict.error;',
    replace: 'throw toUnrecoverable(verdict.failure);',
    mechanism: 'the handler’s own error reaches BullMQ',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'of 2: event, reason, stack and class',
  },
] satisfies readonly Change[];
