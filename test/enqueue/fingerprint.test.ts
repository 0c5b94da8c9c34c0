import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalJson, checkKey, fingerprint, inputJson } from '../../src/enqueue/fingerprint.ts';

describe('a fingerprint', () => {
  it.each([
    ['key order', { a: 1, b: { c: 2, d: 3 } }, { b: { d: 3, c: 2 }, a: 1 }],
    ['number forms', [1.0, -0, 1e2], [1, 0, 100]],
    ['Unicode normalisation', { é: 'ﬁancé\u0301' }, { 'e\u0301': 'ﬁanc\u00e9\u0301' }],
    ['undefined fields', { a: 1, b: undefined }, { a: 1 }],
    ['what JSON makes of a value', { at: new Date(0), n: Number.NaN }, { at: '1970-01-01T00:00:00.000Z', n: null }],
    ['__proto__ keys', JSON.parse('{"__proto__":1,"a":2}'), JSON.parse('{"a":2,"__proto__":1}')],
  ])('does not depend on %s', (_name, a, b) => {
    expect(fingerprint(a)).toBe(fingerprint(b));
  });

  it.each([
    ['array order', [1, 2], [2, 1]],
    ['null and nothing', { a: null }, {}],
    ['a number and its text', { a: 1 }, { a: '1' }],
    ['letter case', { a: 'A' }, { a: 'a' }],
    ['lone surrogates', '\ud83d', '\ud83e'],
    ['nesting', { a: { b: 1 } }, { 'a.b': 1 }],
    ['NUL', 'a\u0000', 'a'],
  ])('tells apart %s', (_name, a, b) => {
    expect(fingerprint(a)).not.toBe(fingerprint(b));
  });

  it('is the same after any trip through JSON, and canonical JSON is canonical', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = canonicalJson(value);
        expect(canonicalJson(JSON.parse(text))).toBe(text);
        expect(fingerprint(JSON.parse(inputJson(value)))).toBe(fingerprint(value));
      }),
    );
  });

  it.each([
    [
      'a cycle',
      (() => {
        const value: Record<string, unknown> = {};
        value.self = value;
        return value;
      })(),
    ],
    ['a bigint', { n: 1n }],
    ['a function', () => 1],
  ])('refuses %s', (_name, value) => {
    expect(() => fingerprint(value)).toThrow(expect.objectContaining({ code: 'INPUT_INVALID' }));
  });

  it('refuses nesting deeper than an event may have', () => {
    const nested = (depth: number) => JSON.parse(`${'['.repeat(depth)}1${']'.repeat(depth)}`);
    expect(() => fingerprint(nested(1_000))).not.toThrow();
    expect(() => fingerprint(nested(1_001))).toThrow(expect.objectContaining({ code: 'INPUT_INVALID' }));
  });

  it('refuses nesting that Postgres would not take', () => {
    const deep = JSON.parse(`${'['.repeat(5_000)}${']'.repeat(5_000)}`);
    expect(() => fingerprint(deep)).toThrow(expect.objectContaining({ code: 'INPUT_INVALID' }));
  });
});

describe('a key', () => {
  it.each(['a', 'ü'.repeat(127), 'with space', '1', 'a:b/c'])('may be %s', (key) => {
    expect(() => checkKey(key)).not.toThrow();
  });

  it.each([
    ['empty', ''],
    ['256 bytes', 'x'.repeat(256)],
    ['256 bytes in 128 characters', 'ü'.repeat(128)],
    ['with a line break', 'a\nb'],
    ['with NUL', 'a\u0000'],
    ['with a C1 control', 'a\u0085'],
    ['with a lone surrogate', 'a\ud83d'],
  ])('may not be %s', (_name, key) => {
    expect(() => checkKey(key)).toThrow(expect.objectContaining({ code: 'KEY_INVALID' }));
  });
});
