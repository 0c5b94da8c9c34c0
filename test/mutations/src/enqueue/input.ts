import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'input-as-json',
    find: 'definition.input.safeParse(value, { error: fewMessages() })',
    replace: 'definition.input.safeParse(input, { error: fewMessages() })',
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
] satisfies readonly Change[];
