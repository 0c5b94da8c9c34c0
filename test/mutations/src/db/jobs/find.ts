import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'record-bytes',
    find: '<= ${maxBytes} then',
    replace: 'is not null then',
    mechanism: 'a read of a job leaves out what is too large',
    test: 'test/http/large-answers.test.ts',
    title: 'a read of one job leaves out what is too large, and names it',
  },
  {
    name: 'find-tenant',
    find: `.where('j.id', '=', id).where('j.tenant', '=', tenant)`,
    replace: `.where('j.id', '=', id)`,
    mechanism: 'a job is looked up in its tenant',
    test: 'test/runs/fences.test.ts',
    title: 'cannot be cancelled, redriven, read, found or waited for',
  },
  {
    name: 'record-tenant',
    find: `.where('j.tenant', '=', tenant).where('j.id', '=', id)`,
    replace: `.where('j.id', '=', id)`,
    mechanism: 'a job is shown to its tenant',
    test: 'test/runs/fences.test.ts',
    title: 'cannot be cancelled, redriven, read, found or waited for',
  },
] satisfies readonly Change[];
