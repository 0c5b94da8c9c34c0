import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-finite',
    find: 'if (!vector.every(Number.isFinite))',
    replace: 'if (vector.length === 0)',
    mechanism: 'a vector has numbers alone',
    test,
    title: '%s fails the attempt: nothing of it is stored, the texts are',
  },
] satisfies readonly Change[];
