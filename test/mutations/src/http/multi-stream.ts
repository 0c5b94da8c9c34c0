import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'multi-cursor',
    find: 'cursors.moveTo(id, event);',
    replace: '',
    mechanism: 'a frame brings the cursors of all streams',
    test: 'test/http/multi-stream.test.ts',
    title: 'are the same stories however the response is cut: at every byte, then resumed',
  },
  {
    name: 'multi-204',
    find: 'if (unfinished.length === 0) return reply.code(204).send();',
    replace: '',
    mechanism: 'a reader that is past every end is told to stop',
    test: 'test/http/multi-stream.test.ts',
    title: 'are 204 once all are past their terminal events, and not before',
  },
  {
    name: 'multi-cut',
    find: 'if (!stream.signal.aborted) stream.destroy();',
    replace: '',
    mechanism: 'one broken stream cuts the response',
    test: 'test/http/multi-stream.test.ts',
    title: 'are cut off, not ended, when the follower of one stops before its terminal event',
  },
  {
    name: 'multi-token-outage',
    find: 'errorHandler: sendProblemOrRetry,',
    replace: '',
    mechanism: 'a reader of several streams whose token cannot be checked for now is asked to connect again later',
    test: 'test/http/stream-faults.test.ts',
    title: 'with %s that cannot be checked, as Postgres is unreachable, is asked to connect again later',
  },
] satisfies readonly Change[];
