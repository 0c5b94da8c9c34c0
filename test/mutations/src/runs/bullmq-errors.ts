import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'unrecoverable-name',
    find: `if (error.name === 'UnrecoverableError') return true;`,
    replace: 'return false;',
    mechanism: 'an UnrecoverableError is known by its name',
    test: 'test/runs/deliveries.test.ts',
    title: 'an UnrecoverableError of another copy of BullMQ ends the job at once',
  },
  {
    name: 'decided-retry',
    find: 'Object.assign(job, { shouldRetryJob: decision });',
    replace: '',
    mechanism: 'BullMQ does what the row says about an error',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'that is unrecoverable %s ends the row too',
  },
] satisfies readonly Change[];
