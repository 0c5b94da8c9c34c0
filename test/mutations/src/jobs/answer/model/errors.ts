import type { Change } from '../../../../mutation.ts';

export default [
  {
    name: 'model-quota',
    find: 'if (call.code !== undefined && QUOTA_CODES.has(call.code)) return',
    replace: "if (call.code === '') return",
    mechanism: 'a quota that is used up is nothing to wait for',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: '%s is nothing to wait for',
  },
] satisfies readonly Change[];
