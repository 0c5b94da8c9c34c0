import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readRowOptions } from '../src/db/jobs/row-options.ts';
import { CENTURY_MS, clamp, clampDelayMs, clampWhole, toNumber } from '../src/numbers.ts';

const BOUNDS = { min: 1, max: 10, default: 3 };

describe('a number from a stranger', () => {
  it.each<[unknown, number]>([
    [4.5, 4.5],
    ['4.5', 4.5],
    [4n, 4],
    [-1, 1],
    [-0, 1],
    [1e20, 10],
    [Number.POSITIVE_INFINITY, 10],
    [Number.NEGATIVE_INFINITY, 1],
    ['1e400', 10],
    [10n ** 400n, 10],
    [Number.NaN, 3],
    ['soon', 3],
    ['', 3],
    [' ', 3],
    [null, 3],
    [undefined, 3],
    [true, 3],
    [[5], 3],
    [{ valueOf: () => 5 }, 3],
    [new Date(5), 3],
    [Symbol('5'), 3],
  ])('%o is clamped to %d', (value, expected) => {
    expect(clamp(value, BOUNDS)).toBe(expected);
  });

  it('is within its bounds, whatever it is', () => {
    fc.assert(
      fc.property(fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true }), (value) => {
        expect(clamp(value, BOUNDS)).toBeGreaterThanOrEqual(1);
        expect(clamp(value, BOUNDS)).toBeLessThanOrEqual(10);
        expect(Number.isInteger(clampWhole(value, BOUNDS))).toBe(true);
        expect(clampDelayMs(value)).toBeGreaterThanOrEqual(0);
        expect(clampDelayMs(value)).toBeLessThanOrEqual(CENTURY_MS);
      }),
    );
  });

  it('is never -0, which JSON and Postgres write in two ways', () => {
    for (const value of [-0, '-0', -0.5]) expect(Object.is(clampWhole(value, { ...BOUNDS, min: -5 }), 0)).toBe(true);
  });

  it('is no number where a language would make one of it', () => {
    for (const value of [null, true, [], [5], new Date(5)]) expect(toNumber(value)).toBeNaN();
  });
});

describe('the options of a row', () => {
  it('are what they were written as', () => {
    const options = {
      priority: 7,
      attempts: 4,
      backoff: { type: 'exponential', delayMs: 250, maxDelayMs: 9_000, jitter: 0.5 },
      publish: 'immediate',
      keyless: true,
    };
    expect(readRowOptions(JSON.stringify(options))).toEqual(options);
  });

  it.each([
    '',
    'null',
    '[]',
    '"text"',
    '1e400',
    '{"attempts":"many","priority":null,"backoff":7}',
    '{"attempts":-1e400,"priority":1e400,"backoff":{"type":"fixed","delayMs":-1,"jitter":1e9,"maxDelayMs":-1e400}}',
    '{"attempts":1e400,"priority":0.5,"backoff":{"type":"exponential","delayMs":1e400,"jitter":-7}}',
    '{"attempts":2.7,"backoff":{"type":"later","delayMs":{}},"publish":"never","keyless":"true"}',
  ])('are ones to work with, where the row has %s', (text) => {
    const { priority, attempts, backoff } = readRowOptions(text);
    expect(Number.isInteger(priority) && priority >= 0 && priority <= 2_097_151).toBe(true);
    expect(Number.isInteger(attempts) && attempts >= 1 && attempts < 2 ** 31).toBe(true);
    expect(['fixed', 'exponential']).toContain(backoff.type);
    for (const ms of [backoff.delayMs, backoff.maxDelayMs ?? 0]) {
      expect(ms).toBeGreaterThanOrEqual(0);
      expect(ms).toBeLessThanOrEqual(CENTURY_MS);
    }
    expect(backoff.jitter ?? 0).toBeGreaterThanOrEqual(0);
    expect(backoff.jitter ?? 0).toBeLessThanOrEqual(1);
  });
});
