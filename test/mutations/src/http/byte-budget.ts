import type { Change } from '../../mutation.ts';

const TEST = 'test/http/byte-budget.test.ts';
const SHARE = 'gives an account as much as is free: half of it alone, and a newcomer always finds room';
const TURNS =
  'gives streams turns in the order in which they were asked for, each once there is room beside the requests';

export default [
  {
    name: 'budget-share',
    find: '< (this.#bytes - this.#held) * share',
    replace: '< this.#bytes * share',
    mechanism: 'an account may hold as much as is free',
    test: TEST,
    title: SHARE,
  },
  {
    name: 'budget-grow',
    find: 'if (bytes > this.#bytes) this.requireRoom();',
    replace: '',
    mechanism: 'a body that grows is refused where there is no room',
    test: TEST,
    title: SHARE,
  },
  {
    name: 'budget-closed',
    find: 'if (change === 0 || this.#closed) return;',
    replace: 'if (change === 0) return;',
    mechanism: 'what runs on for a client that is gone is not counted for ever',
    test: TEST,
    title: SHARE,
  },
  {
    name: 'budget-shared-once',
    find: 'if (--entry.answers > 0) return;',
    replace: '',
    mechanism: 'shared bytes are counted while an answer has them',
    test: TEST,
    title: 'counts bytes that answers share once, until the last of them has been read',
  },
  {
    name: 'budget-turns',
    find: 'if (state.waiting.size === 0 && this.#mayRead(account, state)) return',
    replace: 'if (state.waiting.size >= 0) return',
    mechanism: 'a stream reads where there is room',
    test: TEST,
    title: TURNS,
  },
  {
    name: 'budget-stream-share',
    find: 'const STREAM_SHARE = 0.5;',
    replace: 'const STREAM_SHARE = 1;',
    mechanism: 'streams leave room to requests',
    test: TEST,
    title: TURNS,
  },
  {
    name: 'budget-keeps',
    find: 'if (length > kept && !this.hasRoom(account, STREAM_SHARE)) return false;',
    replace: '',
    mechanism: 'streams keep live messages while there is room',
    test: TEST,
    title: 'lets streams keep live messages while there is room',
  },
  {
    name: 'budget-reads',
    find: '// It may have waited. hold.requireRoom();',
    replace: '',
    mechanism: 'a read that has waited is refused where there is no room by then',
    test: TEST,
    title: 'reads few large things at once, and refuses where what waited finds no room',
  },
  {
    name: 'budget-stream-reads',
    find: 'return streamReads < STREAM_READS_AT_ONCE && this.hasRoom',
    replace: 'return streamReads < 100 && this.hasRoom',
    mechanism: 'few streams of an account read at once',
    test: TEST,
    title: 'lets two streams of an account read at once, and a third when one has come back',
  },
] satisfies readonly Change[];
