import type { Change } from '../../mutation.ts';

const test = 'test/cli/eval-questions.test.ts';

export default [
  {
    name: 'eval-heading',
    find: "one.heading.split(' > ').some((part) => fold(part) === fold(heading))",
    replace: 'one.heading === heading',
    mechanism: 'a heading above a passage names it too',
    test,
    title: 'of a search: %j is at %s',
  },
  {
    name: 'eval-failed',
    find: 'const searched = answer === undefined && outcome.error === undefined;',
    replace: 'const searched = answer === undefined;',
    mechanism: 'a question whose answer failed has missed its words',
    test,
    title: 'counts a question that failed as a miss',
  },
  {
    name: 'eval-threshold',
    find: 'if (least === undefined || (share !== null && share >= least)) return [];',
    replace: 'if (least === undefined || share === null || share >= least) return [];',
    mechanism: 'a share of nothing is below any threshold',
    test: 'test/cli/commands.slow.test.ts',
    title: 'a share of nothing',
  },
] satisfies readonly Change[];
