import type { Change } from '../../../mutation.ts';

const TEST = 'test/http/dialects/responses.test.ts';

export default [
  {
    name: 'responses-starting-after',
    find: "if (number <= this.#after) return '';",
    replace: "if (number < this.#after) return '';",
    mechanism: 'a reader that resumes is sent what follows its number, and not that again',
    test: TEST,
    title: 'is the same whoever reads it, and resumed after any number it is the rest of it',
  },
  {
    name: 'responses-new-item',
    find: "const closed = state.isOpen ? this.#closeItem('incomplete') : ''; state.isShown = false;",
    replace: "const closed = ''; state.isShown = false;",
    mechanism: 'an attempt that starts over has an item of its own',
    test: TEST,
    title: 'obeys the order of a response: created first and once, items in their places, the ending last',
  },
  {
    name: 'responses-redriven-ending',
    find: "state.ending = ''; state.error = null;",
    replace: 'state.error = null;',
    mechanism: 'an ending that a redrive took back is not sent',
    test: TEST,
    title: 'obeys the order of a response: created first and once, items in their places, the ending last',
  },
  {
    name: 'responses-shared-state',
    find: 'this.#state = { ...(state as State) };',
    replace: '',
    mechanism: 'a reader that is given shared frames takes their state over',
    test: TEST,
    title: 'is shared by readers that have left nothing out, and then is the same',
  },
] satisfies readonly Change[];
