import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'seal-channel',
    find: '`${channel}\\n${body}`',
    replace: 'body',
    mechanism: "a seal is of one stream: another's message is not shown",
    test: 'test/journal/forged.test.ts',
    title: 'is of its channel and its text, and an older build reads the message as it was',
  },
] satisfies readonly Change[];
