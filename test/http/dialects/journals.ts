/** Any journal of a job that has ended: attempts that start over or continue, redrives, texts with halves of pairs. */
import fc from 'fast-check';
import type { JobEvent, StreamEvent } from '../../../src/journal/event.ts';

const text = fc.oneof(
  fc.string({ maxLength: 6 }),
  fc.constantFrom('\ud83d', '\ude00', '\0', 'a\r\nb', '"', '\u2028', '', 'word '),
);
const own: fc.Arbitrary<JobEvent> = fc.oneof(
  { weight: 6, arbitrary: text.map((value) => ({ type: 'delta', text: value })) },
  fc.record({
    type: fc.constant('sources'),
    sources: fc.array(fc.record({ n: fc.nat(9), path: text, heading: text, documentId: text }), { maxLength: 2 }),
  }),
  text.map((value) => ({ type: 'reasoning', text: value })),
  fc.record({ type: fc.constant('usage'), inputTokens: fc.nat(9), outputTokens: fc.nat(9) }),
  fc.record({ type: fc.constant('progress'), done: fc.nat(9) }),
  fc.record({ type: fc.constant('data-thing'), data: fc.jsonValue() }),
  fc.constantFrom<JobEvent>({ type: 'delta' }, { type: 'delta', text: 7 }, { type: 'sources', sources: [null, {}] }),
);

/** Where an attempt resumes, as a share of what there is; undefined: it starts over. */
const attempt = fc.record({
  events: fc.array(own, { maxLength: 6 }),
  from: fc.option(
    // Not a double: nearly all of those are nearly 0.
    fc.integer({ min: 0, max: 20 }).map((n) => n / 20),
    { nil: undefined },
  ),
  continues: fc.boolean(),
  redriven: fc.boolean(),
});

const ending = fc.constantFrom<JobEvent>(
  { type: 'end', result: null },
  { type: 'error', error: { code: 'HANDLER_ERROR', message: 'it broke' } },
  { type: 'cancelled' },
);

export const journals: fc.Arbitrary<StreamEvent[]> = fc
  .tuple(fc.array(own, { maxLength: 8 }), fc.array(attempt, { maxLength: 3 }), ending)
  .map(([first, attempts, last]) => {
    const events: JobEvent[] = [...first];
    for (const [index, { events: more, from, continues, redriven }] of attempts.entries()) {
      const error = { code: 'HANDLER_ERROR', message: 'once' };
      events.push(redriven ? { type: 'error', error } : { type: 'retry', attempt: index + 1, delayMs: 1, error });
      const seq = events.length;
      const resumed = continues || from !== undefined;
      const start = continues ? seq : Math.floor((from ?? 0) * seq);
      const reason = redriven ? 'redrive' : 'error';
      events.push(
        { type: 'attempt', attempt: index + 2, reason, resumed, ...(resumed ? { from: start } : {}) },
        ...more,
      );
    }
    events.push(last);
    return events.map((event, seq) => {
      const json = JSON.stringify(event);
      return { seq, fence: 1, cursor: seq, event: JSON.parse(json) as JobEvent, json };
    });
  });
