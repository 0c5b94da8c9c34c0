import type { Change } from '../../mutation.ts';

const TEST = 'test/runs/refused-connections.test.ts';

export default [
  {
    name: 'first-login',
    find: `this.#hasConnected ? 'passes' : 'stays'`,
    replace: `'passes'`,
    mechanism: 'a wrong password of the first connection is an error at once',
    test: TEST,
    title: 'that never had one fails at once with %s',
  },
  {
    name: 'ended-pool',
    find: 'error instanceof Error && !this.ending',
    replace: 'error instanceof Error',
    mechanism: 'what asks a closed pool does not wait for it',
    test: TEST,
    title: 'that is closed fails for good',
  },
] satisfies readonly Change[];
