import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'stop-late-signal',
    find: 'if (this.#reason !== undefined) this.#controller.abort(this.#reason);',
    replace: '',
    mechanism: 'a signal that is asked for after the abort is aborted',
    test: 'test/runs/stop.test.ts',
    title: 'is found aborted by a signal and a listener that come late',
  },
  {
    name: 'stop-unlisten',
    find: 'this.#listener = undefined;',
    replace: '',
    mechanism: 'a handler that has returned is not waited for',
    test: 'test/runs/stop.test.ts',
    title: 'tells nobody who has stopped listening',
  },
  {
    name: 'stop-first',
    find: 'if (this.#reason !== undefined) return;',
    replace: '',
    mechanism: 'the first reason to stop counts',
    test: 'test/runs/stop.test.ts',
    title: 'tells its listener and its signal, whichever was there first, of the first reason',
  },
] satisfies readonly Change[];
