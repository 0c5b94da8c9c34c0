import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'unknown-pause',
    find: 'LONGEST_WAIT_MS);',
    replace: '5_000);',
    mechanism: 'pauses of an unknown name grow',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'waits for another worker: a moment at first, never longer than half a minute, and is told of once',
  },
  {
    name: 'unknown-alert',
    find: 'Date.now() - job.timestamp > UNKNOWN_ALERT_MS',
    replace: 'false',
    mechanism: 'a name that nobody knows for a day is an alert',
    test: 'test/runtime/unknown-names.test.ts',
    title: 'is an alert after a day, once for its name',
  },
] satisfies readonly Change[];
