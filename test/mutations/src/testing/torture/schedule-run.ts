import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'torture-takeover',
    find: `set lease_expires_at = clock_timestamp() - interval '1 second'`,
    replace: 'set lease_expires_at = lease_expires_at',
    mechanism: 'another run takes over from a crashed one',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'leaves a dead run dead: nothing of it runs on, not even a finally',
  },
  {
    name: 'torture-taken',
    find: `await this.#until(({ fence, status }) => fence > run.fence || status !== 'running');`,
    replace: '',
    mechanism: 'a run whose lease torture gives away goes on when another has it',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'breaks it in every other way that runs it twice',
  },
] satisfies readonly Change[];
