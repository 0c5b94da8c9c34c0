import type { Change } from '../mutation.ts';

export default [
  {
    name: 'search-control',
    find: '!CONTROL.test(text)',
    replace: 'true',
    mechanism: 'a search for NUL is refused, not an error of the store',
    test: 'test/http/redrive.test.ts',
    title: 'by path, and redrives nothing',
  },
  {
    name: 'options-heartbeat',
    find: 'heartbeatMs * 2 <= leaseTtlMs',
    replace: 'true',
    mechanism: 'two heartbeats fit into a TTL',
    test: 'test/options.test.ts',
    title: 'tells of every problem at once',
  },
  {
    name: 'options-nested-names',
    find: 'while (at instanceof z.ZodOptional || at instanceof z.ZodDefault) at = at.unwrap();',
    replace: '',
    mechanism: 'a misspelt setting in an object is told what it may mean',
    test: 'test/options.test.ts',
    title: 'suggests what a misspelt setting means, in an object too',
  },
  {
    name: 'options-all-problems',
    find: `throw new InputInvalidError(what, [...issues, ...more], 'INPUT_INVALID', count);`,
    replace: `throw new InputInvalidError(what, [...issues, ...more].slice(0, 1), 'INPUT_INVALID', count);`,
    mechanism: 'every problem of a call is told at once',
    test: 'test/options.test.ts',
    title: 'tells of every problem at once',
  },
] satisfies readonly Change[];
