import type { Change } from '../../mutation.ts';

const CONSOLE = 'test/http/console/console.test.ts';

export default [
  {
    name: 'inspector-tenant',
    find: 'return tenant === null || found === tenant ? found : undefined;',
    replace: 'return found;',
    mechanism: 'a person of a tenant sees the jobs of that tenant alone',
    test: CONSOLE,
    title: 'of a tenant has that tenant alone',
  },
  {
    name: 'audit-first',
    find: 'const id = await insertAudit(db.kysely, entry);',
    replace: 'const id = Number(entry.actor.length);',
    mechanism: 'what a person does is noted',
    test: CONSOLE,
    title: 'is asked again, done, and noted with who did it',
  },
] satisfies readonly Change[];
