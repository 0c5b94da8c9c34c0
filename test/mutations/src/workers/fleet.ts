import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'fleet-options-first',
    find: `const settings = parseFleetOptions('createFleet', options); const runtime = new Runtime(options);`,
    replace: `const runtime = new Runtime(options); const settings = parseFleetOptions('createFleet', options);`,
    mechanism: 'options are checked before anything is opened',
    test: 'test/options.test.ts',
    title: 'opens no connection for options that it refuses',
  },
  {
    name: 'fleet-options-strict',
    find: 'const fleetSchema = z.strictObject(fleetShape);',
    replace: 'const fleetSchema = z.object(fleetShape);',
    mechanism: 'what is no option is refused',
    test: 'test/options.test.ts',
    title: 'tells of every problem at once',
  },
  {
    name: 'fleet-names-unique',
    find: `...sameNames(given['jobs'])`,
    replace: '',
    mechanism: 'no two jobs have one name',
    test: 'test/options.test.ts',
    title: 'by the path of each option',
  },
  {
    name: 'work-options',
    find: `parseOptions('work', workSchema, workOptions)`,
    replace: 'workOptions',
    mechanism: 'options of work are checked',
    test: 'test/options.test.ts',
    title: 'refuses options of %s that do not make sense',
  },
  {
    name: 'fleet-own-methods',
    find: 'return { ...client, ...lendRuntime(runtime),',
    replace: 'return { __proto__: client, ...lendRuntime(runtime),',
    mechanism: 'the methods of a fleet are its own, and so in every copy of it',
    test: 'test/client/spread.test.ts',
    title: 'of a fleet works',
  },
  {
    name: 'fleet-lends',
    find: '...client, ...lendRuntime(runtime),',
    replace: '...client,',
    mechanism: 'a fleet, and every copy of it, lends its connections',
    test: 'test/client/spread.test.ts',
    title: '%s lends its connections to a guarded processor',
  },
] satisfies readonly Change[];
