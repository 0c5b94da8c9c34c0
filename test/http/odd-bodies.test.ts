/** Bodies whose numbers no double holds, and bodies that are deeper than any code looks. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

type Tree = { next?: Tree | undefined } | Tree[];
const tree: z.ZodType<Tree> = z.lazy(() => z.union([z.array(tree), z.object({ next: tree.optional() })]));

let harness: Harness;
beforeAll(async () => {
  const jobs = [
    defineJob({ name: 'anything', input: z.unknown(), run: async () => null }),
    defineJob({ name: 'tree', input: tree, run: async () => null }),
  ];
  harness = await startHarness({}, jobs);
});
afterAll(() => harness?.close());

const post = (name: string, payload: string) =>
  inject(harness.app, {
    method: 'POST',
    url: `/v1/jobs/${name}`,
    headers: { 'content-type': 'application/json' },
    payload,
  });

it.each([
  ['1e400', ''],
  ['-1e400', ''],
  ['{"a":{"b":[1,-1E+400]}}', 'a.b[1]'],
  [`{"n":${'9'.repeat(400)}}`, 'n'],
  ['[[[1e999]]]', '[0][0][0]'],
  [`${'['.repeat(10_000)}1e400${']'.repeat(10_000)}`, undefined],
])('a number that is larger than numbers are is refused with its path: %.30s', async (body, path) => {
  const response = await post('anything', body);
  expect(response.statusCode).toBe(400);
  const { code, issues } = response.json();
  expect(code).toBe('INPUT_INVALID');
  if (path !== undefined) expect(issues).toEqual([{ path, message: expect.stringContaining('larger than a number') }]);
});

it.each(['1e308', '-0', '9007199254740993', '"1e400"', '{"1e400":"1e999"}', '1e-400'])(
  'a number that a double holds, or rounds, and a text are none: %s',
  async (body) => {
    expect((await post('anything', body)).statusCode).toBe(202);
  },
);

it.each([
  ['anything', '[', ']'],
  ['anything', '{"next":', '}'],
  ['tree', '[', ']'],
  ['tree', '{"next":', '}'],
])('a body that is too deep is a 400 that says so: %s of %s', async (name, open, close) => {
  for (const depth of [1_000, 4_000, 7_000]) {
    const response = await post(name, `${open.repeat(depth)}${open === '[' ? '' : '{}'}${close.repeat(depth)}`);
    expect([202, 400], response.body.slice(0, 300)).toContain(response.statusCode);
    if (depth === 7_000) expect(response.json().detail).toMatch(/deep|call stack/);
  }
});
