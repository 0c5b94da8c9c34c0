import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'fold-resume',
    find: 'this.#keep((seq) => seq < from)',
    replace: 'this.#keep(() => true)',
    mechanism: 'an attempt that resumes supersedes what came after its checkpoint',
    test: 'test/journal/fold.test.ts',
    title: 'keeps what came before the checkpoint where an attempt resumes, also of the attempts before',
  },
  {
    name: 'fold-repeat',
    find: 'if (item.seq <= this.#state.lastSeq) return this.#state;',
    replace: '',
    mechanism: 'a repeated event is taken once',
    test: 'test/journal/fold.test.ts',
    title: 'takes an event once, however often a reconnect repeats it',
  },
  {
    name: 'fold-rewind',
    find: 'this.#all.filter(({ seq }) => seq < event.from)',
    replace: 'this.#all.filter(() => true)',
    mechanism: 'a rewind takes events back',
    test: 'test/journal/fold.test.ts',
    title: 'forgets what a rewind takes back, an attempt too, and takes what comes in its place',
  },
  {
    name: 'fold-bound',
    find: 'add: (event) => folder.add(event),',
    replace: 'add: folder.add,',
    mechanism: 'a folder’s method can be taken out of it',
    test: 'test/client/spread.test.ts',
    title: 'of a folder works',
  },
] satisfies readonly Change[];
