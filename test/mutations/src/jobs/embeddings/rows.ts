import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-distinct',
    find: "new Map(missing.map(({ hash, text }) => [hash.toString('hex'), text]))",
    replace: 'new Map(missing.map(({ text, documentId, ordinal }) => [documentId + ordinal, text]))',
    mechanism: 'what several chunks say is asked for once',
    test,
    title: 'that say the same in one request are asked for once',
  },
] satisfies readonly Change[];
