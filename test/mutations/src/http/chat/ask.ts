import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'chat-key-request',
    find: 'record.api !== api || !isDeepStrictEqual(record.request, JSON.parse(JSON.stringify(asked)))',
    replace: 'record.api !== api',
    mechanism: 'a key stands for the whole request, not for what the job reads of it',
    test: 'test/http/chat/responses.test.ts',
    title: 'creates once under a key, and is refused another request under it without trying again',
  },
] satisfies readonly Change[];
