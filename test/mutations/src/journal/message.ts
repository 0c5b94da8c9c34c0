import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'channel-large',
    find: 'length > MAX_MESSAGE_LENGTH ?',
    replace: 'length < 0 ?',
    mechanism: 'a large batch is announced without its events',
    test: 'test/journal/payload.test.ts',
    title: 'points at the journal when it would be too large',
  },
  {
    name: 'channel-not-a-batch',
    find: `typeof end !== 'boolean' || last < first`,
    replace: `typeof end !== 'boolean'`,
    mechanism: 'a message that is no batch is ignored',
    test: 'test/journal/payload.test.ts',
    title: 'that is none is ignored: %s',
  },
] satisfies readonly Change[];
