import type { Change } from '../../mutation.ts';

const TEST = 'test/enqueue/many-issues.test.ts';

export default [
  {
    name: 'sample-custom',
    find: `const path = issue.code === 'custom' ? undefined : likeness.pathInValue(sample, issue.path);`,
    replace: 'const path = likeness.pathInValue(sample, issue.path);',
    mechanism: 'checks of the author of a job are not asked about a part of its input',
    test: TEST,
    title: 'is not refused for what a part of it lacks',
  },
  {
    name: 'sample-whole',
    find: 'return this.#isWhole(at) ? places : undefined;',
    replace: 'return places;',
    mechanism: 'what is wrong with a value that was cut is not held against the input',
    test: TEST,
    title: 'is not refused for what a part of it lacks',
  },
  {
    name: 'sample-places',
    find: 'places.push(cut !== undefined && Array.isArray(at) ? (cut.places[Number(key)] as number) : key);',
    replace: 'places.push(key);',
    mechanism: 'problems of a part have their path in the whole',
    test: TEST,
    title: 'names problems that it has, where they are: %s',
  },
] satisfies readonly Change[];
