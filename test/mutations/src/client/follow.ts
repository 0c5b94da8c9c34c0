import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'follow-options',
    find: 'parseOptions(what, schema, options);',
    replace: '',
    mechanism: 'options of a follower are checked',
    test: 'test/journal/follower.test.ts',
    title: 'is refused options that would give other events than asked for: %s',
  },
] satisfies readonly Change[];
