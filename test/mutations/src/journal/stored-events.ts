import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'large-result',
    find: 'const row = ending.resultLeftOut ? await findRowResult(db, streamId) : ending;',
    replace: 'const row = ending;',
    mechanism: 'a large result of an eventless job is read for its reader',
    test: 'test/http/large-answers.test.ts',
    title: 'a job without events whose result is large ends its readers with the whole of it, alone or among others',
  },
  {
    name: 'read-turn',
    find: 'const endTurn = await options.turns?.take(options.signal);',
    replace: 'const endTurn = undefined as (() => void) | undefined;',
    mechanism: 'streams of a response read one at a time',
    test: 'test/http/large-answers.test.ts',
    title: 'of streams that share their turns one reads from the journal at a time',
  },
  {
    name: 'read-folded',
    find: 'yield eventsOf(segment, first, state.immediate);',
    replace: 'yield eventsOf(segment, Math.max(from, segment.firstSeq), state.immediate);',
    mechanism: 'a reader in the middle of a fold gets no event twice',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'lets a reader in the middle of it read every event once',
  },
  {
    name: 'follower-row-terminal',
    find: 'if (state.rowTerminal !== undefined) {',
    replace: 'if (false) {',
    mechanism: 'a follower reads the terminal event of an eventless job from its row',
    test: 'test/journal/follower.test.ts',
    title: 'of a job that never emitted reads the terminal event from its row',
  },
  {
    name: 'read-kept-from',
    find: 'if (from < Math.min(state.nextSeq, state.keptFrom)) throw expired(state.streamId, from, state.keptFrom);',
    replace: '',
    mechanism: 'a reader is told that events are gone',
    test: 'test/maintenance/sweeper.test.ts',
    title: 'of a redriven job leaves what came after the removal, readable from there on',
  },
  {
    name: 'turn-brought',
    find: 'endTurn?.brought?.(segments.reduce((sum, { events }) => sum + events.length, 0));',
    replace: 'endTurn?.brought?.(0);',
    mechanism: 'what a stream has read is counted until it has been sent',
    test: 'test/http/large-answers.test.ts',
    title: 'a turn is told what it has brought, and ends when that has been taken',
  },
] satisfies readonly Change[];
