import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-paid',
    find: 'throw fault.isPassing && answered.whole ?',
    replace: 'throw fault.isPassing && !answered.whole && texts.length === 0 ?',
    mechanism: 'an answer that is none is not asked for again inside the attempt: it has been paid',
    test,
    title: '%s fails the attempt: nothing of it is stored, the texts are',
  },
] satisfies readonly Change[];
