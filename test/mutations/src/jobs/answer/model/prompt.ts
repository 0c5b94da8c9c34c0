import type { Change } from '../../../../mutation.ts';

export default [
  {
    name: 'prompt-mark',
    find: "for (const { content } of sources) hash.update('\\0').update(content);\n  return hash.digest('hex').slice(0, 16);",
    replace: "return '0'.repeat(16);",
    mechanism: 'no document can know the mark of its source',
    test: 'test/jobs/answer/model/prompt.test.ts',
    title: 'cannot end its source, pose as another or ask: %s',
  },
] satisfies readonly Change[];
