import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'shared-owner',
    find: `return \`\${this.workerId}/\${this.#owners++}\`;`,
    replace: 'return this.workerId;',
    mechanism: 'owners differ between the guards of one process',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'two guards on one runtime do not take each other’s run for their own',
  },
] satisfies readonly Change[];
