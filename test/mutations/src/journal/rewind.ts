import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'follower-rewind',
    find: 'return fork < tail.next ? fork : undefined;',
    replace: 'return undefined;',
    mechanism: 'a reader is rewound to where a later owner went on',
    test: 'test/journal/immediate.test.ts',
    title: 'rewinds its readers to where a crash cut it, then goes on with the next attempt',
  },
  {
    name: 'follower-rewind-end',
    find: 'return state.closed && overtaken ? state.nextSeq - 1 : undefined;',
    replace: 'return undefined;',
    mechanism: 'a reader is rewound when the run ended without its events',
    test: 'test/journal/immediate.test.ts',
    title: 'rewinds when its run ended without events it had sent ahead',
  },
  {
    name: 'follower-fork-gone',
    find: 'if (state.keptFrom > 0 && fork <= state.keptFrom && !intact) throw expired(state.streamId, tail.next, state.keptFrom);',
    replace: '',
    mechanism: 'a reader whose story left the journal where events are gone is told so',
    test: 'test/journal/immediate.test.ts',
    title: 'whose events are gone says so to a reader that has %s, and does not end as if it had all',
  },
  {
    name: 'follower-rewind-killed',
    find: 'return fork < tail.next ? fork : undefined;',
    replace: 'return undefined;',
    mechanism: 'readers are rewound after a real kill',
    test: 'test/runs/processes.slow.test.ts',
    title: 'after it published events that it had not committed: readers are rewound, live or back with a cursor',
  },
] satisfies readonly Change[];
