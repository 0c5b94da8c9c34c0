import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'client-whole-frame',
    find: 'if (done) return;',
    replace: 'if (done) { if (frame.data !== undefined) yield frame; return; }',
    mechanism: 'a frame that breaks off is none',
    test: 'test/web-client/client.test.ts',
    title: 'of which the end is missing is none',
  },
  {
    name: 'client-utf8',
    find: '{ stream: true }',
    replace: '{ stream: false }',
    mechanism: 'a character may come in two pieces',
    test: 'test/web-client/client.test.ts',
    title: 'has each event once, wherever connections break and whatever pieces come',
  },
] satisfies readonly Change[];
