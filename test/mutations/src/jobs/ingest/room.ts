import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/ingest/room.test.ts';

export default [
  {
    name: 'room-fits',
    find: 'this.#held + length <= this.#limit',
    replace: 'true',
    mechanism: 'what ingest jobs hold together is bounded',
    test,
    title: 'lets in what fits, in the order of calls',
  },
  {
    name: 'room-order',
    find: 'if (this.#waiting.length > 0 || ',
    replace: 'if (',
    mechanism: 'a large document is not kept out by small ones',
    test,
    title: 'lets in what fits, in the order of calls',
  },
  {
    name: 'room-once',
    find: 'if (left) return;',
    replace: '',
    mechanism: 'a room is left once',
    test,
    title: 'is left once, however often that is said',
  },
  {
    name: 'room-given-up',
    find: 'reject(signal.reason);\n      this.#letIn();',
    replace: 'reject(signal.reason);',
    mechanism: 'those behind one that gives up come in',
    test,
    title: 'is given up by who has no use for it any more, and those behind come in',
  },
] satisfies readonly Change[];
