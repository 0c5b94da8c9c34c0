import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'lease-table-hold',
    find: 'Atomics.store(this.#words, slot * SLOT_WORDS, this.#generation);',
    replace: '',
    mechanism: 'the thread reads a lease as soon as it is held',
    test: 'test/runs/fences.test.ts',
    title: 'a handler that blocks the event loop from its first line on keeps its lease',
  },
  {
    name: 'lease-table-release',
    find: 'Atomics.store(this.#words, slot * SLOT_WORDS, 0);',
    replace: '',
    mechanism: 'the thread reads no lease that was let go',
    test: 'test/leases/table.test.ts',
    title: 'has what is held, and nothing that was let go',
  },
  {
    name: 'lease-table-generation',
    find: 'if (Atomics.load(this.#words, slot * SLOT_WORDS) === generation) entries.push(entry);',
    replace: 'entries.push(entry);',
    mechanism: 'the thread reads a lease whole or not at all',
    test: 'test/leases/table.test.ts',
    title: 'is read whole or not at all while the other side writes',
  },
  {
    name: 'lease-table-grows',
    find: 'if (needed > this.buffer.byteLength) this.buffer.grow(Math.min(needed * 2, this.buffer.maxByteLength));',
    replace: '',
    mechanism: 'the table grows with the leases',
    test: 'test/leases/table.test.ts',
    title: 'grows with the number of leases',
  },
] satisfies readonly Change[];
