import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'result-tenant',
    find: 'await host.runtime.followers.state(id, tenantOf(host, { tenant }));',
    replace: '',
    mechanism: 'a result is waited for in its tenant',
    test: 'test/runs/fences.test.ts',
    title: 'cannot be cancelled, redriven, read, found or waited for',
  },
] satisfies readonly Change[];
