import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sse-header-first',
    find: `readCursor(request.headers['last-event-id'], request.query.after, request.query.lastEventId)`,
    replace: `readCursor(request.query.after, request.query.lastEventId, request.headers['last-event-id'])`,
    mechanism: 'the header is believed more than the URL',
    test: 'test/http/stream.test.ts',
    title: 'believes the header more than the URL, which is stale after a reconnect',
  },
  {
    name: 'sse-query-cursor',
    find: `readCursor(request.headers['last-event-id'], request.query.after, request.query.lastEventId)`,
    replace: `readCursor(request.headers['last-event-id'])`,
    mechanism: 'a first connect has its cursor in the URL',
    test: 'test/http/stream.test.ts',
    title: 'is replayed from a cursor, whichever way it comes',
  },
  {
    name: 'sse-drain-200',
    find: `if (sse) return refuseForNow(request, reply, { dialect: NATIVE, code: 'SHUTTING_DOWN' });`,
    replace: '',
    mechanism: 'a stream that comes during a drain is asked to connect again later',
    test: 'test/http/stream-faults.test.ts',
    title: 'answers what comes meanwhile: streams with retry, pages and enqueues with 503, health with 200',
  },
  {
    name: 'sse-token-outage',
    find: 'if (wantsEventStream(request) && isStoreUnavailable(error))',
    replace: 'if (wantsEventStream(request) && error === undefined)',
    mechanism: 'an EventSource whose token cannot be checked for now is asked to connect again later',
    test: 'test/http/stream-faults.test.ts',
    title: 'with %s that cannot be checked, as Postgres is unreachable, is asked to connect again later',
  },
] satisfies readonly Change[];
