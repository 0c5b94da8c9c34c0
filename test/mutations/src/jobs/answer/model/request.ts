import type { Change } from '../../../../mutation.ts';

export default [
  {
    name: 'model-first-token',
    find: 'limits.firstTokenMs,',
    replace: '2 ** 30,',
    mechanism: 'a model that sends no text is given up',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: '%s',
  },
  {
    name: 'model-idle',
    find: 'ms`), idleMs);',
    replace: 'ms`), 2 ** 30);',
    mechanism: 'a model that stops in mid-answer is given up',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: '%s',
  },
  {
    name: 'model-total',
    find: 'limits.totalMs)',
    replace: '2 ** 30)',
    mechanism: 'an answer may last so long',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: '%s',
  },
  {
    name: 'model-bytes',
    find: 'if (bytes[type] > MAX_ANSWER_BYTES)',
    replace: 'if (bytes[type] < 0)',
    mechanism: 'an answer and its reasoning have a size',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'writes too much %s',
  },
  {
    name: 'model-tools',
    find: 'if (came.toolCalls > 0) throw',
    replace: 'if (came.toolCalls < 0) throw',
    mechanism: 'text with a tool call is no whole answer',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: '%s',
  },
] satisfies readonly Change[];
