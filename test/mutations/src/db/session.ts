import type { Change } from '../../mutation.ts';

const TEST = 'test/db/session.test.ts';

export default [
  {
    name: 'session-date-style',
    find: ", DateStyle: 'ISO' }",
    replace: ' }',
    mechanism: 'times are read, whatever DateStyle a database or a role has',
    test: TEST,
    title: 'where the database has DateStyle German',
  },
  {
    name: 'session-encoding',
    find: "if (server.encoding !== 'UTF8')",
    replace: 'if (false)',
    mechanism: 'a database that cannot hold every text gets no tables',
    test: TEST,
    title: 'a database in %s',
  },
  {
    name: 'session-rules',
    find: 'if (problem !== undefined) problems.push(problem);',
    replace: '',
    mechanism: 'settings that break what a fleet does are refused',
    test: TEST,
    title: '%s = %s',
  },
  {
    name: 'session-shadows',
    find: 'return [...problems, ...(await findShadows(plain, server.role))];',
    replace: 'return problems;',
    mechanism: "nothing takes the place of Postgres's own by a search_path",
    test: TEST,
    title: 'is refused where that has a function, table, type or operator of Postgres, which are named',
  },
] satisfies readonly Change[];
