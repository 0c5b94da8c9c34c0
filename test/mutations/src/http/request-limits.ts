import type { Change } from '../../mutation.ts';

const TEST = 'test/http/request-limits.test.ts';

export default [
  {
    name: 'requests-counted',
    find: 'if (waitMs > 0) throw',
    replace: 'if (waitMs > 1e9) throw',
    mechanism: 'a caller makes no more requests than it may',
    test: TEST,
    title: 'is told to wait by every route that needs a token, in the shape of the route’s errors',
  },
  {
    name: 'streams-counted',
    find: 'if (open + count > this.#streams)',
    replace: 'if (open > this.#streams)',
    mechanism: 'a caller has no more streams open than it may',
    test: TEST,
    title: 'a caller has as many streams open as it may, and a place is free when one ends',
  },
  {
    name: 'streams-given-back',
    find: 'const left = (this.#open.get(caller) ?? count) - count;',
    replace: 'const left = this.#open.get(caller) ?? count;',
    mechanism: 'a stream that ends gives its place back',
    test: TEST,
    title: 'a caller has as many streams open as it may, and a place is free when one ends',
  },
  {
    name: 'streams-each',
    find: 'this.#open.set(caller, open + count);',
    replace: 'this.#open.set(caller, open + 1);',
    mechanism: 'a response with several streams takes a place for each',
    test: TEST,
    title: 'a response that follows several jobs takes a place for each',
  },
] satisfies readonly Change[];
