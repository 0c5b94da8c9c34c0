import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'writer-retry',
    find: 'if (!isTransient(err)) {',
    replace: 'if (err !== undefined) {',
    mechanism: 'a flush is tried again after a transient error',
    test: 'test/journal/writer.test.ts',
    title: 'twice in a row and comes back: the same batch is retried, nothing is lost or reordered',
  },
  {
    name: 'writer-recognise',
    find: 'head.nextSeq > batch.firstSeq && head.nextSeq <= lastSeq(batch) + 1',
    replace: 'head.nextSeq < 0',
    mechanism: 'a batch whose answer was lost is recognised',
    test: 'test/journal/writer.test.ts',
    title: 'after it committed and before it said so: the batch is recognised, not written twice',
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
    find: 'if (batch.events.length > 1) {',
    replace: 'if (false) {',
    mechanism: 'a bad event does not take those before it with it',
    test: 'test/journal/writer.test.ts',
    title: 'that only Postgres refuses ends its own stream there; what came before it and all other streams commit',
  },
  {
    name: 'writer-refused-alone',
    find: 'const refused = flights.filter((flight) => !accepted.has(flight.batch));',
    replace: `const refused = accepted.size === batches.length ? [] : flights;
        for (const flight of refused) flight.stream.refuse(new LeaseLostError(flight.batch.streamId, flight.batch.fence, ''));`,
    mechanism: 'a stream refused by its fence is told alone',
    test: 'test/journal/writer.test.ts',
    title: 'refuses its stream alone: others of the batch commit',
  },
  {
    name: 'writer-publish-after',
    find: 'const accepted = await appendBatches(this.#db, batches);',
    replace: `this.#publisher.publish(batches.map((batch) => ({ batch, end: false })));
        const accepted = await appendBatches(this.#db, batches);`,
    mechanism: 'nothing is published before its commit',
    test: 'test/journal/writer.test.ts',
    title: 'publishes nothing before its commit, and nothing that was refused',
  },
  {
    name: 'writer-publish',
    find: `this.#publisher.publish(flights.map(({ stream, batch }) => ({ batch, end: false, form: stream.immediate ? 'pointer' : 'events' })));`,
    replace: '',
    mechanism: 'what is committed is published',
    test: 'test/journal/writer.test.ts',
    title: 'flushes a quiet stream by a real timer: no later event is needed',
  },
  {
    name: 'probe-flushed',
    find: 'this.#tellFlush(committed, performance.now() - startedAt);',
    replace: '',
    mechanism: 'flushes are measured',
    test: 'test/telemetry/metrics.test.ts',
    title: 'measures flushes and publishing, pools, and the event loop',
  },
  {
    name: 'probe-flush-failed',
    find: 'this.#probes?.listener?.flushFailed();',
    replace: '',
    mechanism: 'flushes that fail are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts flushes that met a Postgres that does not answer',
  },
] satisfies readonly Change[];
