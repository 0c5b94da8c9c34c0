import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'openapi-once',
    find: 'document ??= Buffer.from(',
    replace: 'document = Buffer.from(',
    mechanism: 'the OpenAPI document is made once',
    test: 'test/http/connections.test.ts',
    title: 'is made once',
  },
] satisfies readonly Change[];
