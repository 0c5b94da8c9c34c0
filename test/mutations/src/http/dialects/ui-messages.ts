import type { Change } from '../../../mutation.ts';

const TEST = 'test/http/dialects/ui-messages.test.ts';
const LATE =
  'is the text that counts, to both majors, in chunks that they know, for a reader that comes after the last start over';

export default [
  {
    name: 'ui-late-start',
    find: 'this.#waits = from >= 0;',
    replace: 'this.#waits = false;',
    mechanism: 'a reader that comes after an attempt has started over is sent what counts alone',
    test: TEST,
    title: LATE,
  },
  {
    name: 'ui-redriven-ending',
    find: 'state.ending = undefined; const superseded',
    replace: 'const superseded',
    mechanism: 'an ending that a redrive took back is not sent',
    test: 'test/http/dialects/ui-messages.test.ts',
    title: 'an ending that a redrive took back is not sent, and its reader waits for the next',
  },
  {
    name: 'ui-reset-shown',
    find: "return this.#chunk({ type: 'reset-step' }) + this.#showAll(shown);",
    replace: "return this.#chunk({ type: 'reset-step' });",
    mechanism: 'what an attempt keeps is sent again after reset-step',
    test: TEST,
    title: 'comes to the same message in a stream that starts over by reset-step',
  },
  {
    name: 'ui-cut-off',
    find: 'if (!takesBack) return',
    replace: 'if (!takesBack || !this.#options.resets) return',
    mechanism: 'a reader that cannot start over is cut off',
    test: TEST,
    title: 'is cut off where something that was sent is taken back, and nowhere else',
  },
  {
    name: 'ui-start-index',
    find: 'number < this.#options.skip',
    replace: 'number <= this.#options.skip',
    mechanism: 'a client that counts chunks is sent those that it has not',
    test: TEST,
    title: 'goes on after any count of chunks with the rest of it',
  },
] satisfies readonly Change[];
