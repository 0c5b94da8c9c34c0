import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HTTP_STATUS, problemSchema } from '../../src/http/problem.ts';
import { bulkAnswer, cancelManyAnswer } from '../../src/http/schemas.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

type App = ReturnType<Harness['another']>;
const post = (app: App, url: string, body: unknown) =>
  inject(app, {
    method: 'POST',
    url,
    headers: { 'content-type': 'application/json' },
    ...(body === undefined ? {} : { payload: JSON.stringify(body) }),
  });
const later = { delayMs: 3_600_000 };

describe('POST /v1/jobs/{name}/bulk', () => {
  it('says of each item in its place what it is', async () => {
    const app = harness.another({ tenant: 'bulk' });
    const body = {
      items: [
        { input: { text: 'a' }, key: 'a', ...later },
        { input: { text: '' } },
        { input: { text: 'a' }, key: 'a' },
        { input: { text: 'b' }, key: 'a' },
        { input: { text: 'c' }, keys: 'c' },
        5,
      ],
    };
    const response = await post(app, '/v1/jobs/echo/bulk', body);
    expect(response.statusCode, response.body).toBe(200);
    const { items, counts } = bulkAnswer.strict().parse(response.json());
    expect(items.map(({ index, outcome }) => [index, outcome])).toEqual([
      [0, 'created'],
      [1, 'invalid'],
      [2, 'attached'],
      [3, 'conflict'],
      [4, 'invalid'],
      [5, 'invalid'],
    ]);
    expect(counts).toEqual({ created: 1, attached: 1, replayed: 0, conflict: 1, invalid: 3, error: 0 });
    expect(items[1]).toMatchObject({ error: { code: 'INPUT_INVALID', message: expect.stringContaining('text: ') } });
    expect(items[4]).toMatchObject({ error: { message: expect.stringContaining('keys') } });
  });

  it.each([
    ['no list', {}, 'INPUT_INVALID'],
    ['another field', { items: [], item: [] }, 'INPUT_INVALID'],
    ['too many items', { items: Array.from({ length: 10_001 }, () => 0) }, 'INPUT_INVALID'],
    ['an array', [], 'INPUT_INVALID'],
    ['nothing', undefined, 'INPUT_INVALID'],
  ] as const)('refuses %s', async (_, body, code) => {
    const response = await post(harness.another({ tenant: 'bulk-refused' }), '/v1/jobs/echo/bulk', body);
    expect(response.statusCode, response.body).toBe(HTTP_STATUS[code]);
    expect(problemSchema.strict().parse(response.json()).code).toBe(code);
    expect((await harness.fleet.find({ tenant: 'bulk-refused' })).jobs).toEqual([]);
  });

  it('knows no job that is none', async () => {
    expect((await post(harness.app, '/v1/jobs/nobody/bulk', { items: [] })).json()).toMatchObject({
      code: 'JOB_NAME_UNKNOWN',
    });
  });
});

describe('POST /v1/cancel', () => {
  it('cancels jobs of its tenant that the filter fits; sent again it finds none', async () => {
    const enqueue = (tenant: string, key: string) =>
      harness.fleet.enqueue('echo', { text: 'x' }, { tenant, key, ...later });
    for (const key of ['a/1', 'a/2', 'b/1']) await enqueue('cancels', key);
    await enqueue('others', 'a/1');
    const app = harness.another({ tenant: 'cancels' });
    const filter = { name: 'echo', status: 'pending', keyPrefix: 'a/' };
    const cancel = async (body: unknown) =>
      cancelManyAnswer.strict().parse((await post(app, '/v1/cancel', body)).json());
    expect(await cancel({ ...filter, limit: 1 })).toMatchObject({ matched: 1, cancelled: 1 });
    expect(await cancel(filter)).toEqual({ matched: 1, cancelled: 1, requested: 0 });
    expect(await cancel(filter)).toMatchObject({ matched: 0 });
    const left = await Promise.all(
      ['cancels', 'others'].map((tenant) => harness.fleet.find({ tenant, status: 'pending' })),
    );
    expect(left.map(({ jobs }) => jobs.map(({ key }) => key))).toEqual([['b/1'], ['a/1']]);
  });

  it.each([
    ['no body', undefined, 'BODY_INVALID'],
    ['a filter that makes no sense', { status: 'failed', limit: 0, names: 'x' }, 'INPUT_INVALID'],
  ] as const)('refuses %s', async (_, body, code) => {
    const response = await post(harness.another({ tenant: 'cancels' }), '/v1/cancel', body);
    expect(problemSchema.strict().parse(response.json()).code).toBe(code);
  });
});
