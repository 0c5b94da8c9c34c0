import type { Change } from '../../../../mutation.ts';

export default [
  {
    name: 'model-finish',
    find: 'timer = setTimeout(() => controller.terminate(), USAGE_WAIT_MS);',
    replace: '',
    mechanism: 'an answer ends with its finish reason',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'and leaves the connection open: %s',
  },
  {
    name: 'model-line',
    find: 'if (unended > MAX_LINE_BYTES) throw',
    replace: 'if (unended < 0) throw',
    mechanism: 'a line without end is cut',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'sends a line without end',
  },
] satisfies readonly Change[];
