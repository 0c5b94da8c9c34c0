import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'input-as-json',
    find: 'parse(definition, value, text, what)',
    replace: 'parse(definition, input, text, what)',
    mechanism: 'an input is checked as JSON carries it',
    test: 'test/enqueue/input.test.ts',
    title: 'never takes what its worker would refuse, whatever the schema and the value',
  },
  {
    name: 'input-lost',
    find: 'if (lost.length > 0) throw',
    replace: 'if (false) throw',
    mechanism: 'what JSON loses is refused',
    test: 'test/enqueue/input.test.ts',
    title: 'refuses %s, with its path',
  },
  {
    name: 'input-sampled',
    find: 'if (seen.length >= MAX_ISSUES) throw inputInvalid(what, seen);',
    replace: '',
    mechanism: 'a large input of which a part is wrong is not looked at to its end',
    test: 'test/enqueue/many-issues.test.ts',
    title: 'is not looked at to its end where a part of it tells (%s)',
  },
  {
    name: 'input-depth',
    find: 'if (!(error instanceof RangeError)) throw error;',
    replace: 'throw error;',
    mechanism: 'an input that is too deep for its schema is refused',
    test: 'test/http/odd-bodies.test.ts',
    title: 'a body that is too deep is a 400 that says so: %s of %s',
  },
] satisfies readonly Change[];
