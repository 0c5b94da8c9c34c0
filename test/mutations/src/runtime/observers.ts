import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'observer-background',
    find: 'await nextTurn(); let turnStarted',
    replace: 'let turnStarted',
    mechanism: 'an observer is called after its caller has gone on',
    test: 'test/runtime/observers.test.ts',
    title: 'is told in order, after the caller has gone on',
  },
  {
    name: 'observer-throws',
    find: `} catch (err) { this.#complain('observer failed', err); }`,
    replace: '} catch (err) { throw err; }',
    mechanism: 'an observer that throws harms nothing',
    test: 'test/runtime/observers.test.ts',
    title: 'that %s is told on, and keeps nothing from others',
  },
  {
    name: 'observer-bound',
    find: 'if (this.#waiting.length - this.#next >= MAX_WAITING) {',
    replace: 'if (false) {',
    mechanism: 'what waits for a slow observer is bounded',
    test: 'test/runtime/observers.test.ts',
    title: 'that is too slow misses the newest, and the log says how many',
  },
  {
    name: 'observer-limit',
    find: 'await Promise.race([answer, late]);',
    replace: 'await answer;',
    mechanism: 'an observer that never answers is told on',
    test: 'test/runtime/observers.test.ts',
    title: 'that never answers is told on after its time, and does not keep a fleet from closing',
  },
  {
    name: 'observer-frozen',
    find: 'const transition: Transition = Object.freeze({',
    replace: 'const transition: Transition = Object.assign({}, {',
    mechanism: 'no observer changes what others are told',
    test: 'test/runtime/observers.test.ts',
    title: 'is told the process and the time, and cannot change what others are told',
  },
  {
    name: 'observer-quiet',
    find: `return this.#inboxes.size > 0 || this.#log.isLevelEnabled('debug');`,
    replace: 'return true;',
    mechanism: 'without a listener nobody is told',
    test: 'test/runtime/observers.test.ts',
    title: 'listens at no other level: without observers nobody is told',
  },
] satisfies readonly Change[];
