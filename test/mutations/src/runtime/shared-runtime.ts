import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'shared-count',
    find: 'if (taken.users > 0) return;',
    replace: '',
    mechanism: 'the last release closes a shared runtime, and no earlier one',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'equal settings share a runtime',
  },
  {
    name: 'shared-forget',
    find: 'shared.delete(key);',
    replace: '',
    mechanism: 'a closed runtime is shared with nobody',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'equal settings share a runtime',
  },
  {
    name: 'shared-policy',
    find: 'const { maxCrashes: _crashes, resultTtlMs: _ttl, ...own } = options;',
    replace: 'const own = options;',
    mechanism: 'settings of jobs do not keep processors from sharing',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'is the jobs’ and not the runtime’s, which keeps its own',
  },
  {
    name: 'shared-connected',
    find: 'void warmUp(runtime);',
    replace: '',
    mechanism: 'the first job of a wrapped processor does not wait for a connection',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'a processor has its connection to Postgres before its first job',
  },
] satisfies readonly Change[];
