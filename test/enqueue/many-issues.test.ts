/** Inputs that are wrong in many places: what is said of them is short, and finding it out does not take long. */
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { checkedInput } from '../../src/enqueue/input.ts';
import { InputInvalidError } from '../../src/errors.ts';
import { type AnyJobDefinition, defineJob } from '../../src/jobs/define-job.ts';
import { parseOptions } from '../../src/options.ts';

const jobWith = (input: z.ZodType): AnyJobDefinition =>
  defineJob({ name: 'any', input, run: async () => null }) as unknown as AnyJobDefinition;

function errorOf(act: () => unknown): InputInvalidError {
  try {
    act();
  } catch (error) {
    if (error instanceof InputInvalidError) return error;
    throw error;
  }
  throw new Error('It was accepted');
}

const times = <T>(count: number, item: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => item(i));
const fields = (count: number, value: unknown) => Object.fromEntries(times(count, (i) => [`k${i}`, value]));

const item = z.object({ n: z.number() });
const either = z.union([z.object({ a: z.string() }), z.object({ b: z.string() })]);
const byType = z.discriminatedUnion('type', [z.object({ type: z.literal('a'), x: z.string() })]);

/** [what, schema, input, whether a part of it tells] */
const WRONG: [string, z.ZodType, unknown, boolean][] = [
  ['items of an array', z.array(z.string()), times(40_000, () => 1), true],
  ['items of a field', z.object({ items: z.array(item) }), { items: times(20_000, () => ({})) }, true],
  ['items of items', z.array(z.array(z.string())), times(200, () => times(200, () => 1)), true],
  [
    'items of a field of items',
    z.array(z.object({ l: z.array(item) })),
    times(300, () => ({ l: times(30, () => 1) })),
    true,
  ],
  ['values of a record', z.record(z.string(), z.number()), fields(10_000, 'x'), true],
  ['a half of the items', z.array(z.string()), times(40_000, (i) => (i < 20_000 ? 'a' : 1)), true],
  ['unions', z.array(either), times(20_000, () => ({})), true],
  ['discriminated unions', z.array(byType), times(20_000, () => ({ type: 'a' })), true],
  ['lengths of items', z.array(z.string().min(3)), times(20_000, () => 'ab'), true],
  ['unknown keys of items', z.array(z.strictObject({})), times(10_000, () => ({ unknown: 1 })), true],
  ['unknown keys', z.strictObject({}), fields(10_000, 'x'), false],
  [
    'lists of issues of checks',
    z.array(z.any()).superRefine((list, ctx) => {
      for (const i of list.keys()) ctx.addIssue({ code: 'custom', path: [i], message: 'wrong' });
    }),
    times(40_000, () => 'x'),
    false,
  ],
  ['items that are not dates', z.array(z.date()), times(5_000, () => new Date(0)), true],
];

describe('an input with many problems', () => {
  it.each(WRONG)('names 20 at most, and counts: %s', (_what, schema, input) => {
    const error = errorOf(() => checkedInput(jobWith(schema), input));
    expect(error.issues.length).toBeLessThanOrEqual(20);
    expect(error.issueCount).toBeGreaterThanOrEqual(error.issues.length);
    expect(error.message.length).toBeLessThan(8_000);
    expect(JSON.stringify(error.details).length).toBeLessThan(10_000);
    expect(error.message).toMatch(error.issueCount > 20 ? /and \d+ more$/ : /./);
  });

  it.each(WRONG.slice(0, 10))('names problems that it has, where they are: %s', (_what, schema, input) => {
    const found = (schema.safeParse(input).error?.issues ?? []).map(({ path, message }) => {
      const places = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
      return `${places.replace(/^\./, '')}: ${message}`;
    });
    const all = new Set(found);
    const { issues } = errorOf(() => checkedInput(jobWith(schema), input));
    expect(issues.filter(({ path, message }) => !all.has(`${path}: ${message}`))).toEqual([]);
  });

  it.each(WRONG)('is not looked at to its end where a part of it tells (%s)', (_what, schema, input, partTells) => {
    const looked: number[] = [];
    const definition = jobWith(schema);
    const watched = {
      ...definition,
      input: {
        ...definition.input,
        safeParse(value: unknown, params: never) {
          looked.push(JSON.stringify(value).length);
          return schema.safeParse(value, params);
        },
      },
    } as unknown as AnyJobDefinition;
    errorOf(() => checkedInput(watched, input));
    expect(Math.max(...looked) < 40_000).toBe(partTells);
  });

  it('is not refused for what a part of it lacks', () => {
    const referring = z.object({ edges: z.array(z.object({ to: z.number() })) }).superRefine(({ edges }, ctx) => {
      for (const [i, edge] of edges.entries())
        if (edges[edge.to] === undefined)
          ctx.addIssue({ code: 'custom', path: ['edges', i, 'to'], message: 'no edge' });
    });
    const wide = z.object(Object.fromEntries(times(300, (i) => [`k${i}`, z.string()])));
    for (const [schema, input] of [
      [referring, { edges: times(20_000, (i) => ({ to: 19_999 - i })) }],
      [z.array(z.array(z.number()).length(100)).min(500), times(500, () => times(100, () => 1))],
      [
        z.array(z.record(z.string(), z.number()).refine((r) => Object.keys(r).length === 100)),
        times(200, () => fields(100, 1)),
      ],
      [z.array(wide), times(60, () => fields(300, 'x'))],
      [z.array(z.array(z.array(z.number()).min(9)).min(9)).min(9), times(90, () => times(90, () => times(9, () => 1)))],
    ] as [z.ZodType, unknown][]) {
      const text = JSON.stringify(input);
      expect(text.length).toBeGreaterThan(64 * 1024);
      expect(checkedInput(jobWith(schema), input).text).toBe(text);
    }
  });

  it('is told of long keys and long lists of keys in short', () => {
    const long = 'k'.repeat(1_000_000);
    for (const [schema, input] of [
      [z.record(z.string(), z.number()), { [long]: 'x' }],
      [z.strictObject({}), { [long]: 'x' }],
      [z.record(z.string(), z.record(z.string(), z.number())), { a: { [long]: 'x' } }],
    ] as [z.ZodType, unknown][])
      expect(errorOf(() => checkedInput(jobWith(schema), input)).message.length).toBeLessThan(2_000);
  });
});

describe('options with many problems', () => {
  const schema = z.strictObject({ limit: z.number().optional(), canary: z.number().optional() });

  it('are told of 20 unknown names, and how many there are', () => {
    const error = errorOf(() => parseOptions('Redrive', schema, { ...fields(90_000, 1), limitt: 1, limit: 'x' }));
    expect(error.issues).toHaveLength(20);
    expect(error.issueCount).toBe(90_002);
    expect(error.message.length).toBeLessThan(2_000);
  });

  it('still suggest a name for one that is misspelt, if it is no longer than any', () => {
    expect(errorOf(() => parseOptions('Redrive', schema, { limitt: 1 })).message).toContain('did you mean limit?');
    const error = errorOf(() => parseOptions('Redrive', schema, { ['limit'.repeat(200_000)]: 1 }));
    expect(error.message).not.toContain('did you mean');
  });
});
