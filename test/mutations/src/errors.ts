import type { Change } from '../mutation.ts';

const TEST = 'test/enqueue/many-issues.test.ts';

export default [
  {
    name: 'issues-bounded',
    find: 'const shown = issues.slice(0, MAX_ISSUES).map(',
    replace: 'const shown = issues.map(',
    mechanism: 'an error does not name every problem',
    test: TEST,
    title: 'are told of 20 unknown names, and how many there are',
  },
  {
    name: 'issue-length',
    find: 'return text.length > length ?',
    replace: 'return text.length > 1e9 ?',
    mechanism: 'a path or a message that holds a part of the input is cut',
    test: TEST,
    title: 'is told of long keys and long lists of keys in short',
  },
] satisfies readonly Change[];
