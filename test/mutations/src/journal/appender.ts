import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'writer-retry',
    find: 'if (!isTransient(err)) {',
    replace: 'if (err !== undefined) {',
    mechanism: 'a flush is tried again after a transient error',
    test: 'test/journal/writer.test.ts',
    title: 'twice in a row and comes back: the same run is retried, nothing is lost or reordered',
  },
  {
    name: 'writer-recognise',
    find: 'head.nextSeq > run.firstSeq && head.nextSeq <= lastSeq(run) + 1',
    replace: 'head.nextSeq < 0',
    mechanism: 'a run whose answer was lost is recognised',
    test: 'test/journal/writer.test.ts',
    title: 'after it committed and before it said so: the run is recognised, not written twice',
  },
  {
    name: 'writer-isolate-stream',
    find: 'if (flights.length > 1) {',
    replace:
      'for (const flight of flights) flight.stream.refuse(new OncefleetError("JOURNAL_REFUSED", "")); if (false) {',
    mechanism: 'a stream with a bad event takes no other with it',
    test: 'test/journal/writer.test.ts',
    title: 'that only Postgres refuses ends its own stream there; what came before it and all other streams commit',
  },
  {
    name: 'writer-isolate-event',
    find: 'if (run.events.length > 1) {',
    replace: 'if (false) {',
    mechanism: 'a bad event does not take those before it with it',
    test: 'test/journal/writer.test.ts',
    title: 'that only Postgres refuses ends its own stream there; what came before it and all other streams commit',
  },
  {
    name: 'writer-refused-alone',
    find: 'const refused = flights.filter((flight) => !accepted.has(flight.run));',
    replace: `const refused = accepted.size === runs.length ? [] : flights;
        for (const flight of refused) flight.stream.refuse(new LeaseLostError(flight.run.streamId, flight.run.fence, ''));`,
    mechanism: 'a stream refused by its fence is told alone',
    test: 'test/journal/writer.test.ts',
    title: 'refuses its stream alone: others of the batch commit',
  },
  {
    name: 'writer-publish-after',
    find: 'const accepted = await appendRuns(this.#db, runs);',
    replace: `this.#publisher.publish(runs.map((run) => ({ run, end: false })));
        const accepted = await appendRuns(this.#db, runs);`,
    mechanism: 'nothing is published before its commit',
    test: 'test/journal/writer.test.ts',
    title: 'publishes nothing before its commit, and nothing that was refused',
  },
  {
    name: 'writer-publish',
    find: `this.#publisher.publish(flights.map(({ stream, run }) => ({ run, end: false, form: stream.immediate ? 'pointer' : 'events' })));`,
    replace: '',
    mechanism: 'what is committed is published',
    test: 'test/journal/writer.test.ts',
    title: 'flushes a quiet stream by a real timer: no later event is needed',
  },
] satisfies readonly Change[];
