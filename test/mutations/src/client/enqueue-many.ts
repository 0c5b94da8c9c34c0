import type { Change } from '../../mutation.ts';

const TEST = 'test/client/enqueue-many.test.ts';

export default [
  {
    name: 'bulk-order',
    find: 'this.#outcomes.sort((a, b) => a.index - b.index);',
    replace: '',
    mechanism: 'outcomes of a bulk enqueue come in the order of its items',
    test: TEST,
    title: 'says of each item in its place what it is, and one that is wrong keeps no other from being accepted',
  },
  {
    name: 'bulk-bytes',
    find: '(chunk.length > 0 && bytes + size > CHUNK_BYTES)',
    replace: 'false',
    mechanism: 'a chunk of a bulk enqueue is bounded in bytes',
    test: TEST,
    title: 'cuts the list by the bytes of its inputs',
  },
  {
    name: 'bulk-spoilt',
    find: 'if (this.#acceptIn !== undefined) throw error;',
    replace: '',
    mechanism: "an error in the caller's transaction is thrown: nothing of the list is accepted",
    test: TEST,
    title: 'says of an item that Postgres refuses alone that it is an error, and accepts the others',
  },
  {
    name: 'bulk-signal',
    find: 'signal?.throwIfAborted();',
    replace: '',
    mechanism: 'a bulk enqueue stops with its signal',
    test: TEST,
    title: 'of a signal that aborts, leaves what was accepted and does no more',
  },
] satisfies readonly Change[];
