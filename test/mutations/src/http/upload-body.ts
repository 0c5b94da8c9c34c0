import type { Change } from '../../mutation.ts';

const TEST = 'test/http/uploads.test.ts';

export default [
  {
    name: 'upload-stall',
    find: 'await within(stallMs, chunks.next()',
    replace: 'await within(60_000, chunks.next()',
    mechanism: 'an upload that stalls is given up',
    test: TEST,
    title: 'a body that stalls: 408, and nothing stays',
  },
  {
    name: 'upload-cut-form',
    find: ".on('error', (error) => this.#fail(brokenForm(error)))",
    replace: ".on('error', () => this.#fail(new Error('broken')))",
    mechanism: 'a form that breaks off is refused as such',
    test: TEST,
    title: 'that %s is refused, and nothing of it stays',
  },
] satisfies readonly Change[];
