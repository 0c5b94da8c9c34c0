import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-patience',
    find: 'if (delayMs === undefined || performance.now() + delayMs > giveUpAt) throw error.error;',
    replace: 'throw error.error;',
    mechanism: 'an ingest asks a busy server again inside the attempt',
    test,
    title: '%s is asked again inside the attempt, which says so',
  },
  {
    name: 'embed-cool',
    find: 'if (now < this.#coolUntil) throw new CoolingDownError();',
    replace: '',
    mechanism: 'after a question without a vector the next ones do not wait',
    test,
    title: 'after one that got no vector does not wait for one',
  },
] satisfies readonly Change[];
