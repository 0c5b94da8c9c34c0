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
  {
    name: 'lost-idle',
    find: 'if (!endedIdle) noteLost(error);',
    replace: 'noteLost(error);',
    mechanism: 'a transaction that was left idle is no lost connection',
    test: 'test/runs/lost-connections.slow.test.ts',
    title: 'is a transaction that its handler left idle for too long',
  },
] satisfies readonly Change[];
