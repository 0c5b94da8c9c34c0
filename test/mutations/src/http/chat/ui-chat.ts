import type { Change } from '../../../mutation.ts';

const TEST = 'test/http/chat/ui-chat.test.ts';

export default [
  {
    name: 'ui-key-edited',
    find: 'update(JSON.stringify(asked))',
    replace: 'update(JSON.stringify(asked.own))',
    mechanism: 'an edited message is another request',
    test: TEST,
    title: 'asks once, however often the same message is sent; edited it is another, and so is a new answer to it',
  },
  {
    name: 'ui-resume-ended',
    find: '(chunks === undefined && isTerminalStatus(job.status))',
    replace: 'false',
    mechanism: 'an answer that has ended is not resumed',
    test: TEST,
    title: 'finds nothing to resume where nothing is in flight',
  },
] satisfies readonly Change[];
