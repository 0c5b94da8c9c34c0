import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'uncollected-waits',
    find: 'this.#bytesOutside() > this.#limit',
    replace: 'this.#bytesOutside() < 0',
    mechanism: 'who reads much waits while what was read before is not collected',
    test: 'test/http/byte-budget.test.ts',
    title: '%s that follows a large one waits until it is collected',
  },
  {
    name: 'uncollected-large',
    find: 'if (bytes < LARGE_BYTES) return;',
    replace: '',
    mechanism: 'who reads little does not wait for what others have read',
    test: 'test/http/byte-budget.test.ts',
    title: '%s of an account that reads little does not wait',
  },
  {
    name: 'uncollected-bounded',
    find: 'step < MOST_STEPS && this',
    replace: 'this',
    mechanism: 'the wait for a collection ends',
    test: 'test/http/byte-budget.test.ts',
    title: '%s goes on after half a second of waiting',
  },
] satisfies Change[];
