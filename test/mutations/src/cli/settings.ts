import type { Change } from '../../mutation.ts';

const test = 'test/cli/settings.test.ts';

export default [
  {
    name: 'dev-env-closed',
    find: 'const settings = Object.fromEntries(DEV_SETTINGS.map((name) => [name, all[name]]));',
    replace: 'const settings = all;',
    mechanism: 'of dev.env only what `npm run dev` writes is taken',
    test,
    title: 'nothing but what `npm run dev` writes is taken from dev.env',
  },
  {
    name: 'env-file-owner',
    find: 'if (!isOfOwner(stats)) throw new Error(NOT_OURS);',
    replace: '',
    mechanism: 'a settings file that another user can write is refused',
    test,
    title: 'that anybody can write is refused',
  },
] satisfies readonly Change[];
