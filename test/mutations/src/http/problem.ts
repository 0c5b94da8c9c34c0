import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'body-limit-named',
    find: `\`: \${bodyLimitBytes} bytes\``,
    replace: `''`,
    mechanism: 'a body that is too large is told the limit',
    test: 'test/http/jobs.test.ts',
    title: 'refuses a body over the limit, announced or not, and takes one at the limit',
  },
] satisfies readonly Change[];
