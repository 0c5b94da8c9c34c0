import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { checkedInput } from '../../src/enqueue/input.ts';
import { defineJob, InputInvalidError } from '../../src/index.ts';

function check(input: z.ZodType, value: unknown) {
  const { text, value: arrived } = checkedInput(defineJob({ name: 'job', input, run: async () => undefined }), value);
  return { text, value: arrived };
}

function issuesOf(input: z.ZodType, value: unknown): string[] {
  try {
    check(input, value);
    return [];
  } catch (error) {
    expect(error).toBeInstanceOf(InputInvalidError);
    return (error as InputInvalidError).issues.map(({ path, message }) => `${path}: ${message}`);
  }
}

describe('an input is checked as its worker will have it', () => {
  it.each<[string, z.ZodType, unknown, RegExp]>([
    ['a date', z.object({ at: z.date() }), { at: new Date(0) }, /^at: .*z\.coerce\.date\(\)/],
    ['a set', z.object({ ids: z.set(z.string()) }), { ids: new Set(['a']) }, /^ids: a Set would arrive as \{\}/],
    ['a map', z.object({ by: z.map(z.string(), z.number()) }), { by: new Map([['a', 1]]) }, /^by: a Map/],
    ['a set that any schema takes', z.object({ ids: z.any() }), { ids: new Set(['a']) }, /^ids: a Set/],
    ['bytes', z.object({ raw: z.instanceof(Uint8Array) }), { raw: new Uint8Array([1]) }, /^raw: a Uint8Array/],
    ['a URL', z.object({ url: z.instanceof(URL) }), { url: new URL('http://127.0.0.1/') }, /^url: .*what JSON makes/],
    [
      'a hole',
      z.object({ list: z.array(z.string().optional()) }),
      { list: ['a', undefined] },
      /^list\[1\]: undefined in an array/,
    ],
    ['a function in an array', z.any(), [() => 1], /^\[0\]: function in an array/],
    ['NaN', z.object({ n: z.nan() }), { n: Number.NaN }, /^n: .*NaN and Infinity are null/],
    ['a bigint', z.object({ n: z.bigint() }), { n: 1n }, /^: is not JSON: .*BigInt/],
    ['a circle', z.any(), circle(), /^: is not JSON: .*circular/],
    ['nothing', z.undefined(), undefined, /^: .*what JSON makes/],
    ['what its schema refuses', z.object({ n: z.number() }), { n: 'x' }, /^n: (?!.*what JSON makes)/],
  ])('refuses %s, with its path', (_, schema, value, message) => {
    expect(issuesOf(schema, value)).toEqual([expect.stringMatching(message)]);
  });

  it.each<[string, z.ZodType, unknown, unknown]>([
    ['a date as a text', z.object({ at: z.coerce.date() }), { at: new Date(0) }, { at: '1970-01-01T00:00:00.000Z' }],
    [
      'a URL as a text',
      z.object({ url: z.url() }),
      { url: new URL('http://127.0.0.1/') },
      { url: 'http://127.0.0.1/' },
    ],
    ['what is left out', z.object({ n: z.number().default(1) }), { n: undefined }, {}],
    ['Infinity as null', z.object({ n: z.any() }), { n: Number.POSITIVE_INFINITY }, { n: null }],
    ['what says what it is', z.object({ a: z.literal('me') }), { a: { toJSON: () => 'me' } }, { a: 'me' }],
  ])('takes %s', (_, schema, value, carried) => {
    expect(check(schema, value)).toEqual({ value: carried, text: JSON.stringify(carried) });
  });

  it('never takes what its worker would refuse, whatever the schema and the value', () => {
    const leaf: fc.Arbitrary<[z.ZodType, unknown]> = fc.oneof(
      fc.tuple(fc.constant(z.date()), fc.date()),
      fc.tuple(fc.constant(z.coerce.date()), fc.oneof(fc.date(), fc.string())),
      fc.tuple(fc.constant(z.number()), fc.double()),
      fc.tuple(fc.constant(z.nan()), fc.constant(Number.NaN)),
      fc.tuple(fc.constant(z.string().optional()), fc.option(fc.string(), { nil: undefined })),
      fc.tuple(fc.constant(z.string().nullable()), fc.option(fc.string(), { nil: null })),
      fc.tuple(fc.constant(z.set(z.number())), fc.constant(new Set([1]))),
      fc.tuple(
        fc.constant(z.any()),
        fc.anything({ withDate: true, withMap: true, withSet: true, withTypedArray: true, withBigInt: true }),
      ),
      fc.tuple(fc.constant(z.string().transform(Number)), fc.string()),
      fc.tuple(fc.constant(z.bigint()), fc.bigInt()),
    );
    const { value: schemaAndValue } = fc.letrec<{ value: [z.ZodType, unknown] }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 3 },
        leaf,
        tie('value').map(([schema, value]): [z.ZodType, unknown] => [z.object({ a: schema }), { a: value }]),
        tie('value').map(([schema, value]): [z.ZodType, unknown] => [z.array(schema), [value, value]]),
        tie('value').map(([schema, value]): [z.ZodType, unknown] => [z.record(z.string(), schema), { k: value }]),
      ),
    }));
    fc.assert(
      fc.property(schemaAndValue, ([schema, value]) => {
        let text: string;
        try {
          text = check(schema, value).text;
        } catch (error) {
          expect(error).toBeInstanceOf(InputInvalidError);
          return;
        }
        expect(schema.safeParse(JSON.parse(text)).success).toBe(true);
      }),
      { numRuns: 3_000 },
    );
  });

  it('tells twenty problems of a value that has many', () => {
    expect(issuesOf(z.any(), Array(1_000).fill(undefined))).toHaveLength(20);
  });
});

function circle(): object {
  const value: { self?: object } = {};
  value.self = value;
  return value;
}
