import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sse-204',
    find: 'if (page.finished && page.events.length === 0) return reply.code(204).send();',
    replace: '',
    mechanism: 'a reader at or past the end is told to stop',
    test: 'test/http/stream.test.ts',
    title: 'is 204 for a cursor %s past its terminal event, which stops an EventSource',
  },
  {
    name: 'sse-end-terminal',
    find: 'if (isTerminalType(last)) stream.end(dialect.close()); else if',
    replace: 'if (true) stream.end(dialect.close()); else if',
    mechanism: 'a body ends cleanly after a terminal event alone',
    test: 'test/http/stream-faults.test.ts',
    title: 'is cut off, not ended, when the follower stops before the terminal event',
  },
  {
    name: 'sse-store-away',
    find: `if (isStoreUnavailable(error)) { return refuseForNow(request, reply, { dialect, code: 'STORE_UNAVAILABLE', cause: error }); }`,
    replace: '',
    mechanism: 'a stream that comes while Postgres is unreachable is asked to connect again later',
    test: 'test/http/stream-faults.test.ts',
    title: 'is asked to connect again later, with a 200, while Postgres is unreachable',
  },
  {
    name: 'sse-dialect-committed',
    find: 'const committed = dialect.rewind === undefined;',
    replace: 'const committed = false;',
    mechanism: 'clients that cannot take events back are sent committed ones alone',
    test: 'test/http/dialects.test.ts',
    title: 'that has none is sent committed events alone',
  },
] satisfies readonly Change[];
