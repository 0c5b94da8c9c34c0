import type { Change } from '../../../mutation.ts';

const TEST = 'test/http/dialects/chat-completions.test.ts';
const LATE = 'sends a reader that comes after the last start over the text that counts, and one ending';

const SHARED = 'is shared by readers that have had the same, and then is the same; one that waits shares nothing';

export default [
  {
    name: 'completions-cut-off',
    find: 'if (takesBack) throw new ReconnectRequired();',
    replace: '',
    mechanism: 'a reader of a completion whose text is taken back is cut off',
    test: TEST,
    title: 'is cut off where something that was sent is taken back, and nowhere else',
  },
  {
    name: 'completions-late-start',
    find: 'this.#waits = (options.from ?? -1) >= 0;',
    replace: 'this.#waits = options.from === Infinity;',
    mechanism: 'a reader of a completion that comes after an attempt has started over is sent what counts alone',
    test: TEST,
    title: LATE,
  },
  {
    name: 'completions-shared-state',
    find: 'this.#state = { ...(state as State) };',
    replace: '',
    mechanism: 'a reader of a completion that is given shared frames takes their state over',
    test: TEST,
    title: SHARED,
  },
  {
    name: 'completions-shared-waits',
    find: 'if (this.#waits) return undefined;',
    replace: '',
    mechanism: 'a reader that is sent less than others shares no frames with them',
    test: TEST,
    title: SHARED,
  },
] satisfies readonly Change[];
