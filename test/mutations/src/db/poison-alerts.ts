import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'alert-hold',
    find: `due_at) values (\${jobId}, \${fence}, \${tenant}, \${name}, \${queue}, \${crashes}, clock_timestamp() + \${ALERT_HOLD_MS}::float8 * interval '1 ms')`,
    replace: `due_at) values (\${jobId}, \${fence}, \${tenant}, \${name}, \${queue}, \${crashes}, clock_timestamp())`,
    mechanism: 'who ends a job has its alert to itself for a while',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that throws is called again after a while, until it resolves',
  },
  {
    name: 'alert-pause',
    find: 'due_at = clock_timestamp() + least(',
    replace: 'due_at = a.due_at + 0 * least(',
    mechanism: 'who takes an alert has it to itself, each time for longer',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that was left behind is the taker’s for twice as long each time, up to an hour',
  },
  {
    name: 'alert-lock',
    find: 'for update skip locked',
    replace: '',
    mechanism: 'an alert is taken by one of those that look at once',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'is not waited for by who meets an alert that another takes just now',
  },
  {
    name: 'alert-definition',
    find: 'and (name, queue) in (',
    replace: 'and (name, queue) not in (',
    mechanism: 'an alert is taken by who has its definition',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'whose definition nobody has is let alone: no call, no line, no change',
  },
] satisfies readonly Change[];
