import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'torture-job',
    find: `parseOptions('Torture options', optionsSchema, options, () => issues);`,
    replace: `parseOptions('Torture options', optionsSchema, options);`,
    mechanism: 'torture refuses what is no job',
    test: 'test/options.test.ts',
    title: 'before it starts anything',
  },
] satisfies readonly Change[];
