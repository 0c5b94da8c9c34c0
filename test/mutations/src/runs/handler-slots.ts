import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'slots-limit',
    find: 'if (this.#free === 0 || this.#closed) return false;',
    replace: '',
    mechanism: 'no more handlers run at once than concurrency says',
    test: 'test/workers/concurrency.test.ts',
    title: 'handlers run at once',
  },
  {
    name: 'slots-hand-back',
    find: 'this.#timer ??= setTimeout(() => this.#giveUp(), MAX_WAIT_MS);',
    replace: '',
    mechanism: 'a job behind long handlers goes back to its queue',
    test: 'test/workers/concurrency.test.ts',
    title: 'are not claimed before a handler is free for them, and go to another worker when none is',
  },
  {
    name: 'slots-short',
    find: 'this.#seen >= MIN_SEEN && this.#averageMs < SHORT_MS',
    replace: 'this.#seen >= MIN_SEEN',
    mechanism: 'jobs are taken in reserve for short handlers alone',
    test: 'test/runs/handler-slots.test.ts',
    title: 'takes jobs in reserve once handlers have shown that they are short, and no longer when they are not',
  },
  {
    name: 'slots-close',
    find: 'handBack(this.#waiters.splice(0));',
    replace: '',
    mechanism: 'a worker that closes hands back what waits for a slot',
    test: 'test/runs/handler-slots.test.ts',
    title: 'hands everything back when closed, and gives no slot any more',
  },
  {
    name: 'slots-order',
    find: 'of waiters.reverse()) resolve(false);',
    replace: 'of waiters) resolve(false);',
    mechanism: 'jobs that go back stand in their queue as before',
    test: 'test/runs/handler-slots.test.ts',
    title: 'hands back the newest first, for the oldest to stand at the head of its queue',
  },
  {
    name: 'slots-once',
    find: 'this.#held = false; this.#slots.release(handlerMs);',
    replace: 'this.#slots.release(handlerMs);',
    mechanism: 'a delivery gives its slot back once',
    test: 'test/runs/handler-slots.test.ts',
    title: 'takes the slot of a delivery back once',
  },
] satisfies readonly Change[];
