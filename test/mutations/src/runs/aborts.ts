import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'attempt-timeout',
    find: 'if (timeoutMs !== undefined) abortAfter',
    replace: 'if (false) abortAfter',
    mechanism: 'a timeout aborts the attempt',
    test: 'test/runs/deliveries.test.ts',
    title: 'a timeout aborts the attempt and counts as an error',
  },
  {
    name: 'run-deadline',
    find: 'if (deadlineLeftMs !== null) {',
    replace: 'if (false) {',
    mechanism: 'a deadline aborts the run',
    test: 'test/runs/fences.test.ts',
    title: 'a deadline that passes during the run aborts and fails it, whatever attempts are left',
  },
  {
    name: 'bullmq-cancel',
    find: 'if (spec.transparent) stop.pass(signal.reason); else stop.abort',
    replace: 'stop.abort',
    mechanism: 'BullMQ’s cancel is the processor’s to answer',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'fails the job with what the processor throws for it, and does not run it again',
  },
] satisfies readonly Change[];
