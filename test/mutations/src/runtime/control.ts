import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'control-early',
    find: 'this.#subscribable = true; if (this.#listening) this.#ask();',
    replace: 'if (this.#listening) this.#ask();',
    mechanism: 'a process that listens late subscribes all the same',
    test: 'test/runtime/control.test.ts',
    title: 'of a Cluster is subscribed whenever its subscribers are ready: before the process listens, or after',
  },
  {
    name: 'control-again',
    find: 'setTimeout(() => this.#ask(), RESUBSCRIBE_MS).unref();',
    replace: '',
    mechanism: 'the control channel is asked for until Redis confirms',
    test: 'test/runtime/control.test.ts',
    title: 'is asked for until Redis confirms',
  },
  {
    name: 'left-heard',
    find: 'if (isLeftJob(order?.left)) for (const listener of this.#onLeft) listener(order.left);',
    replace: '',
    mechanism: 'a worker hears of jobs that others have left',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'runs when another worker leaves it',
  },
] satisfies readonly Change[];
