import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'param-length',
    find: 'routerOptions: { maxParamLength: MAX_PARAM_LENGTH },',
    replace: 'routerOptions: { maxParamLength: 500 },',
    mechanism: 'a document is found by the longest path it may have',
    test: 'test/http/collections.test.ts',
    title: 'are found by their path and by their id: %s',
  },
  {
    name: 'openapi-once',
    find: 'document ??= Buffer.from(',
    replace: 'document = Buffer.from(',
    mechanism: 'the OpenAPI document is made once',
    test: 'test/http/connections.test.ts',
    title: 'is made once',
  },
  {
    name: 'token-origins',
    find: "(config.tokens === undefined ? [] : ['*'])",
    replace: "['*']",
    mechanism: 'without tokens no page of another origin can read an answer',
    test: 'test/http/origins.test.ts',
    title: 'no page of another origin can read %s',
  },
  {
    name: 'hosts-hidden',
    find: "if (config.tokens !== undefined) api.addHook('preSerialization', hideHosts);",
    replace: '',
    mechanism: 'tenants are not told where their jobs run',
    test: 'test/http/tenants.test.ts',
    title: 'is not told where its jobs run; whoever reaches a server without tokens is',
  },
] satisfies readonly Change[];
