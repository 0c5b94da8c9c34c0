import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'input-as-json',
    find: 'definition.input.safeParse(value)',
    replace: 'definition.input.safeParse(input)',
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
] satisfies readonly Change[];
