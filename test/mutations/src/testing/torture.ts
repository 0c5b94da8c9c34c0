import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'torture-job',
    find: `parseOptions('Torture options', optionsSchema, options, () => issues);`,
    replace: `parseOptions('Torture options', optionsSchema, options);`,
    mechanism: 'torture refuses what is no job',
    test: 'test/options.test.ts',
    title: 'before it starts anything',
  },
  {
    name: 'torture-takeover',
    find: `set lease_expires_at = clock_timestamp() - interval '1 second'`,
    replace: 'set lease_expires_at = lease_expires_at',
    mechanism: 'another run takes over from a crashed one',
    test: 'test/testing/torture.slow.test.ts',
    title: 'leaves a dead run dead: nothing of it runs on, not even a finally',
  },
  {
    name: 'torture-taken',
    find: `await this.#until(({ fence, status }) => fence > run.fence || status !== 'running');`,
    replace: '',
    mechanism: 'a run whose lease torture gives away goes on when another has it',
    test: 'test/testing/torture.slow.test.ts',
    title: 'breaks it in every other way that runs it twice',
  },
  {
    name: 'torture-rows',
    find: 'if (now !== then) problems.push(',
    replace: 'if (false) problems.push(',
    mechanism: 'torture compares the rows of tables',
    test: 'test/testing/torture.slow.test.ts',
    title: 'breaks the naive handler where its worker dies after the charge',
  },
  {
    name: 'torture-stream',
    find: 'if (stream && !isDeepStrictEqual(told, wanted))',
    replace: 'if (false)',
    mechanism: 'torture compares streams',
    test: 'test/testing/torture.slow.test.ts',
    title: 'finds a checkpoint that the next run does not go on from',
  },
  {
    name: 'torture-result',
    find: 'if (result && !isDeepStrictEqual(outcome.result, peace.result))',
    replace: 'if (false)',
    mechanism: 'torture compares results',
    test: 'test/testing/torture.slow.test.ts',
    title: 'finds a result that depends on the attempt',
  },
] satisfies readonly Change[];
