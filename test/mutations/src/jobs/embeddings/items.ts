import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-kept',
    find: "vector: earlier.get(hash.toString('hex')),",
    replace: 'vector: undefined,',
    mechanism: 'chunks that a new version has kept keep their vectors',
    test,
    title: 'are asked for once: not again unchanged, and of a changed document what has changed',
  },
] satisfies readonly Change[];
