import { describe, expect, it } from 'vitest';
import { Continuation } from '../../../../src/jobs/answer/model/continuation.ts';

const whole = Array.from({ length: 120 }, (_, n) => `word${n}`).join(' ');

/** The text after a break at `at`, come in pieces of `size`. */
function goOn(earlier: string, later: string, size: number): string {
  const continuation = new Continuation(earlier);
  let text = '';
  for (let from = 0; from < later.length; from += size) text += continuation.push(later.slice(from, from + size));
  return earlier + text + continuation.end();
}

describe.each([1, 7, 150, 10_000])('in pieces of %i', (size) => {
  it.each([0, 1, 13, 100, 333, whole.length - 3, whole.length])('joins an answer cut at %i', (at) => {
    const earlier = whole.slice(0, at);
    expect(goOn(earlier, whole.slice(at), size)).toBe(whole);
    // Begun again from its first word.
    if (at >= 12) expect(goOn(earlier, whole, size)).toBe(whole);
    // Begun a little too early.
    if (at > 80) expect(goOn(earlier, whole.slice(at - 60), size)).toBe(whole);
  });

  it('keeps words that are repeated by chance', () => {
    expect(goOn('the cat and the ', 'the dog', size)).toBe('the cat and the the dog');
  });

  it('keeps what differs after a new beginning', () => {
    const other = `${whole.slice(0, 300)} but another end`;
    expect(goOn(whole.slice(0, 500), other, size)).toBe(`${whole.slice(0, 500)} but another end`);
  });
});
