import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'dispatcher-failed',
    find: `if ((state === 'failed' && row.delayMs <= 0) || (state === 'completed' && row.source !== undefined)) {`,
    replace: 'if (false) {',
    mechanism: 'a redriven job that BullMQ holds as failed is retried there',
    test: 'test/runs/deliveries.test.ts',
    title: 'by an operator does too, and refuses jobs that have not failed',
  },
  {
    name: 'dispatcher-replaced',
    find: `if (state === 'completed' || state === 'failed' || state === 'unknown') await job.remove();`,
    replace: '',
    mechanism: 'what BullMQ holds as finished makes room for its job',
    test: 'test/maintenance/reconciler.test.ts',
    title: 'delivers again, after its delay, what BullMQ has as failed',
  },
  {
    name: 'dispatcher-late',
    find: 'this.#late === 0 &&',
    replace: '',
    mechanism: 'no enqueue waits for a Redis that does not answer another',
    test: 'test/enqueue/enqueue-in-transaction.test.ts',
    title: 'an enqueue is held up once and shortly, and what Redis did not take runs when it answers',
  },
  {
    name: 'dispatch-foreign',
    find: 'row.source === undefined ? this.#entry(row.queue).adds.call(row) : this.#addAgain(row, row.source)',
    replace: 'this.#entry(row.queue).adds.call(row)',
    mechanism: 'a job of another client is added as that client added it',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'gives its processor the data it had: ',
  },
  {
    name: 'dispatch-foreign-prefix',
    find: 'source === undefined || source.prefix === this.#options.prefixOf(source.queue)',
    replace: 'true',
    mechanism: 'it goes to the prefix of its own queue',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'gives its processor the data it had: ',
  },
  {
    name: 'dispatch-foreign-number',
    find: 'return source !== undefined && source.timestamp !== timestamp;',
    replace: 'return false;',
    mechanism: 'a number that another job has taken is not its own',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'gives another job that has taken its number since the flush its own data and its own row',
  },
] satisfies readonly Change[];
