import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { limitKeysOf } from '../../src/jobs/limits.ts';

const key = () => 'k';
const define = (limits: unknown) =>
  defineJob({ name: 'job', input: z.object({}), limits: limits as never, run: () => undefined });

describe('a limit that can never be met, or says nothing, is refused with its path', () => {
  it.each([
    ['no numbers', [{ key }], 'limits[0]'],
    ['no key', [{ concurrency: 1 }], 'limits[0].key'],
    ['concurrency 0', [{ key, concurrency: 0 }], 'limits[0].concurrency'],
    ['half a place', [{ key, concurrency: 1.5 }], 'limits[0].concurrency'],
    ['NaN places', [{ key, concurrency: Number.NaN }], 'limits[0].concurrency'],
    ['more places than are counted', [{ key, concurrency: 10_001 }], 'limits[0].concurrency'],
    ['rate of 0', [{ key, rate: { max: 0, perMs: 1 } }], 'limits[0].rate.max'],
    ['no window', [{ key, rate: { max: 1 } }], 'limits[0].rate.perMs'],
    ['a window of 0', [{ key, rate: { max: 1, perMs: 0 } }], 'limits[0].rate.perMs'],
    ['a negative window', [{ key, rate: { max: 1, perMs: -1 } }], 'limits[0].rate.perMs'],
    ['an endless window', [{ key, rate: { max: 1, perMs: Number.POSITIVE_INFINITY } }], 'limits[0].rate.perMs'],
    ['a misspelt field', [{ key, concurency: 1 }], 'limits[0]'],
    ['a name with a slash', [{ key, name: 'a/b', concurrency: 1 }], 'limits[0].name'],
    ['a name like that of tenants', [{ key, name: '@tenant', concurrency: 1 }], 'limits[0].name'],
    [
      'two without names',
      [
        { key, concurrency: 1 },
        { key, name: 'b', concurrency: 1 },
      ],
      'limits[0].name',
    ],
    [
      'two of one name',
      [
        { key, name: 'b', concurrency: 1 },
        { key, name: 'b', concurrency: 1 },
      ],
      'limits[1].name',
    ],
    ['too many', Array.from({ length: 5 }, (_, i) => ({ key, name: `n${i}`, concurrency: 1 })), 'limits'],
    ['no list', { key, concurrency: 1 }, 'limits'],
  ])('%s', (_, limits, path) => {
    expect(() => define(limits)).toThrow(
      expect.objectContaining({
        code: 'INPUT_INVALID',
        issues: expect.arrayContaining([expect.objectContaining({ path })]),
      }),
    );
  });

  it('is named after its job, and none is none', () => {
    expect(define([{ key, concurrency: 1 }]).limits).toMatchObject([{ name: 'job', concurrency: 1 }]);
    expect(define([]).limits).toBeUndefined();
  });
});

describe('the keys of a job', () => {
  const of = (...keys: (() => unknown)[]) => {
    const limits = keys.map((own, i) => ({ key: own as never, name: `n${i}`, concurrency: 1 }));
    return limitKeysOf('job', define(limits).limits as never, { input: {}, tenant: 't' });
  };

  it('are those that it has: undefined is none', () => {
    expect(
      of(
        () => 'a',
        () => undefined,
        () => 'ä/😀',
      ),
    ).toBe('["n0/a","n2/ä/😀"]');
    expect(of(() => undefined)).toBeUndefined();
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('secret');
      },
    ],
    ['null', () => null],
    ['a number', () => 7],
    ['a promise', async () => 'k'],
    ['empty', () => ''],
    ['too long', () => 'x'.repeat(256)],
    ['NUL', () => 'a\u0000'],
    ['half a pair', () => '\ud800'],
  ])('are refused: %s', (_, own) => {
    const refused = () => of(() => 'fine', own);
    expect(refused).toThrow(expect.objectContaining({ code: 'LIMIT_KEY_INVALID', details: { path: 'limits[1].key' } }));
    expect(refused).not.toThrow(/secret/);
  });
});
