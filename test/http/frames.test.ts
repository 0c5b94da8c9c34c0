import { expect, it, vi } from 'vitest';
import { NATIVE } from '../../src/http/dialects/native.ts';
import { sharedFrames } from '../../src/http/frames.ts';
import type { StreamEvent } from '../../src/journal/event.ts';

it('are made once, and each reader is taken to have as many events as they hold', () => {
  const source = {};
  const event = { type: 'step' };
  const events: StreamEvent[] = [3, 4].map((seq) => ({
    seq,
    fence: 1,
    cursor: seq,
    event,
    json: JSON.stringify(event),
  }));
  const batchOf = (given: readonly StreamEvent[]) => ({
    source,
    skip: vi.fn<(count: number) => void>(),
    [Symbol.iterator]: () => given[Symbol.iterator](),
  });
  const first = sharedFrames(NATIVE, source, batchOf(events));
  expect(first.count).toBe(2);
  // One of the message is no event: what is behind it this reader is still to be given, from the journal.
  const later = batchOf([]);
  expect(sharedFrames(NATIVE, source, later)).toBe(first);
  expect(later.skip.mock.calls).toEqual([[2]]);
});
