import type { Change } from '../../../../mutation.ts';

export default [
  {
    name: 'model-patience',
    find: 'if (delayMs === undefined || (!targets.hasUnasked && performance.now() + delayMs > giveUpAt)) throw error.error;',
    replace: 'throw error.error;',
    mechanism: 'a busy model is asked again inside the attempt',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'is asked again inside the attempt: %s',
  },
  {
    name: 'model-impatience',
    find: '|| (!targets.hasUnasked && performance.now() + delayMs > giveUpAt)',
    replace: '',
    mechanism: 'patience has an end',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'is not waited for longer than patience lasts',
  },
  {
    name: 'model-begun',
    find: 'if (meter.hasBegun) {',
    replace: 'if (meter.hasBegun && signal.aborted) {',
    mechanism: 'text that has come is not asked for again',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'is not asked once the first has begun',
  },
  {
    name: 'model-key',
    find: 'digest([target.name, prompt])',
    replace: 'digest([target.name, prompt, tries])',
    mechanism: 'one answer has one key, however often it is asked for',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'is asked again inside the attempt: %s',
  },
] satisfies readonly Change[];
