import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'key-one-header',
    find: 'if (countOf(request) > 1)',
    replace: 'if (false)',
    mechanism: 'two keys are not read as one',
    test: 'test/http/tenants.test.ts',
    title: 'sent as %s headers is refused',
  },
  {
    name: 'key-quotes-kept',
    find: '|| (await isKept(client, request, header))) return;',
    replace: ') return;',
    mechanism: 'a key that was taken with its quotes stays the key of its job',
    test: 'test/http/tenants.test.ts',
    title: 'that an earlier build took with its quotes stays the key of its job, until that has expired',
  },
] satisfies readonly Change[];
