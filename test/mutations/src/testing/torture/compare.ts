import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'torture-rows',
    find: 'if (now !== then) problems.push(',
    replace: 'if (false) problems.push(',
    mechanism: 'torture compares the rows of tables',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'breaks the naive handler where its worker dies after the charge',
  },
  {
    name: 'torture-stream',
    find: 'if (stream && !isDeepStrictEqual(actual, expected))',
    replace: 'if (false)',
    mechanism: 'torture compares streams',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'finds a checkpoint that the next run does not go on from',
  },
  {
    name: 'torture-result',
    find: 'if (result && !isDeepStrictEqual(outcome.result, baseline.result))',
    replace: 'if (false)',
    mechanism: 'torture compares results',
    test: 'test/testing/torture/torture.slow.test.ts',
    title: 'finds a result that depends on the attempt',
  },
] satisfies readonly Change[];
