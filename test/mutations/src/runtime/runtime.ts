import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'settlement-recognised',
    find: 'refused.length === 0 ? undefined : await findEnds(db, refused)',
    replace: `new Map(refused.map((settlement) => [settlement, 'lost'] as const))`,
    mechanism: 'an outcome whose answer was lost is recognised',
    test: 'test/runtime/runtime.test.ts',
    title: 'is recognised when its answer was lost, and announced',
  },
  {
    name: 'settlement-isolation',
    find: 'run: (settlements) => this.#settle(settlements), isolate: (error) => !isTransient(error),',
    replace: 'run: (settlements) => this.#settle(settlements),',
    mechanism: 'an outcome that Postgres refuses takes no other with it',
    test: 'test/runtime/runtime.test.ts',
    title: 'that Postgres refuses is refused alone',
  },
  {
    name: 'claim-isolation',
    find: 'run: (claims) => claimJobs(db, claims, this.workerId), isolate: (error) => !isTransient(error),',
    replace: 'run: (claims) => claimJobs(db, claims, this.workerId),',
    mechanism: 'a claim that Postgres refuses takes no other with it',
    test: 'test/runtime/runtime.test.ts',
    title: 'that Postgres refuses fails alone',
  },
  {
    name: 'settlement-announced',
    find: `this.#announce(settlements.filter((_, i) => ends[i] === 'settled'));`,
    replace: '',
    mechanism: 'an outcome is announced on the live bus',
    test: 'test/runtime/runtime.test.ts',
    title: 'is recognised when its answer was lost, and announced',
  },
  {
    name: 'silent-announced',
    find: 'else if (end) silentlyEnded.push(id);',
    replace: '',
    mechanism: 'the outcome of a silent job is announced too',
    test: 'test/runtime/runtime.test.ts',
    title: 'of a silent job is announced',
  },
  {
    name: 'shared-owner',
    find: `return \`\${this.workerId}/\${this.#owners++}\`;`,
    replace: 'return this.workerId;',
    mechanism: 'owners differ between the guards of one process',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'two guards on one runtime do not take each other’s run for their own',
  },
] satisfies readonly Change[];
