import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'rejection-survived',
    find: "if (!tellJob(err)) log.error({ err }, 'A rejection that nobody handled; the process continues');",
    replace: 'crash(err);',
    mechanism: 'a rejection that nobody handles ends no worker',
    test: 'test/cli/services.slow.test.ts',
    title: 'goes on after rejections that a handler leaves to nobody, and logs them',
  },
] satisfies readonly Change[];
