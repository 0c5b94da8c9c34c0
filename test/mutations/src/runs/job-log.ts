import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'log-lines',
    find: 'bounded.log(lineOf(level, String(message)))',
    replace: 'delivery.log(lineOf(level, String(message)))',
    mechanism: 'Redis keeps a bounded number of lines of a job',
    test: 'test/runs/job-log.test.ts',
    title: 'with the options %s the newest lines are kept',
  },
  {
    name: 'log-line-bytes',
    find: 'bounded.log(lineOf(level, String(message)))',
    replace: 'bounded.log(String(message))',
    mechanism: 'a line of a job is bounded in bytes',
    test: 'test/runs/job-log.test.ts',
    title: 'a line is cut to a kibibyte: %s',
  },
] satisfies readonly Change[];
