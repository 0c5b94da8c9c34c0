import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { z } from 'zod';
import { HTTP_STATUS, problemSchema } from '../../src/http/problem.ts';
import {
  cancelAnswer,
  definitionsAnswer,
  enqueueAnswer,
  jobAnswer,
  redriveAnswer,
  searchAnswer,
} from '../../src/http/schemas.ts';
import { BODY_LIMIT_BYTES, gate, type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const post = (path: string, body?: unknown, headers: Record<string, string> = {}) =>
  inject(harness.app, {
    method: 'POST',
    url: path,
    headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
    ...(body === undefined
      ? {}
      : { payload: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body) }),
  });
const get = (path: string, headers: Record<string, string> = {}) => inject(harness.app, { url: path, headers });
type Response = Awaited<ReturnType<typeof get>>;

/** The answer, held to the schema that /openapi.json shows, without members it does not know. */
function answerOf<S extends z.ZodObject>(response: Response, schema: S, status = 200): z.output<S> {
  expect(response.statusCode, response.body).toBe(status);
  return schema.strict().parse(response.json()) as z.output<S>;
}

function expectProblem(response: Response, code: keyof typeof HTTP_STATUS): z.output<typeof problemSchema> {
  expect(response.headers['content-type'], response.body).toBe('application/problem+json');
  const problem = problemSchema.strict().parse(response.json());
  expect(problem).toMatchObject({ code, status: HTTP_STATUS[code], type: `urn:oncefleet:error:${code}` });
  expect(response.statusCode).toBe(problem.status);
  expect(problem.requestId).toBe(response.headers['x-request-id']);
  return problem;
}

async function ended(id: string): Promise<z.output<typeof jobAnswer>> {
  await expect
    .poll(async () => (await get(`/v1/jobs/${id}`)).json().status, { timeout: 15_000 })
    .toMatch(/completed|failed|cancelled/);
  return answerOf(await get(`/v1/jobs/${id}`), jobAnswer);
}

const unknownId = '0190aaaa-0000-7000-8000-000000000000';

describe('POST /v1/jobs/{name}', () => {
  it('accepts a job, says where it is, and the job runs', async () => {
    const response = await post('/v1/jobs/echo', { text: 'one two' });
    const answer = answerOf(response, enqueueAnswer, 202);
    expect(answer).toMatchObject({ outcome: 'created', status: 'pending' });
    expect(answer.links).toEqual({
      self: `/v1/jobs/${answer.id}`,
      events: `/v1/jobs/${answer.id}/events`,
      cancel: `/v1/jobs/${answer.id}/cancel`,
    });
    expect(response.headers['location']).toBe(answer.links.self);
    expect(await ended(answer.id)).toMatchObject({
      status: 'completed',
      result: { said: 'one two' },
      key: null,
      input: { text: 'one two' },
    });
  });

  it('attaches to the job in flight under the same key, and replays it once it has ended', async () => {
    const send = () => post('/v1/jobs/stepper', { gate: 'attach', steps: 1 }, { 'idempotency-key': 'attach' });
    const first = answerOf(await send(), enqueueAnswer, 202);
    const second = await send();
    expect(answerOf(second, enqueueAnswer, 202)).toMatchObject({ id: first.id, outcome: 'attached' });
    expect(second.headers).not.toHaveProperty('idempotency-replayed');
    gate.open('attach');
    await ended(first.id);
    const third = await send();
    expect(answerOf(third, enqueueAnswer, 200)).toMatchObject({
      id: first.id,
      outcome: 'replayed',
      status: 'completed',
    });
    expect(third.headers['idempotency-replayed']).toBe('true');
  });

  it('takes the same input in another order of members for the same', async () => {
    const first = await post('/v1/jobs/echo', '{"text":"a","items":[{"n":1}]}', { 'idempotency-key': 'order' });
    const second = await post('/v1/jobs/echo', '{ "items": [ {"n": 1} ], "text": "a" }', {
      'idempotency-key': 'order',
    });
    expect(second.json().id).toBe(first.json().id);
  });

  it('refuses another body under a used key with 422, which no SDK retries', async () => {
    await post('/v1/jobs/echo', { text: 'one' }, { 'idempotency-key': 'mismatch' });
    expectProblem(await post('/v1/jobs/echo', { text: 'two' }, { 'idempotency-key': 'mismatch' }), 'KEY_MISMATCH');
  });

  it('reads the key as UTF-8, as the library does', async () => {
    const key = 'clé-🔑';
    const response = await fetch(harness.url('/v1/jobs/echo'), {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': Buffer.from(key).toString('latin1') },
      body: '{"text":"x"}',
    });
    const { id } = (await response.json()) as { id: string };
    expect((await harness.fleet.get(id))?.key).toBe(key);
    const found = answerOf(await get(`/v1/jobs?key=${encodeURIComponent(key)}`), searchAnswer);
    expect(found.jobs.map((job) => job.id)).toEqual([id]);
  });

  it.each([
    ['empty', ''],
    ['longer than 255 bytes', 'k'.repeat(256)],
    ['longer than 255 bytes in UTF-8', Buffer.from('é'.repeat(128)).toString('latin1')],
    ['not UTF-8', '\xff'],
    ['with a control character', 'a\tb'],
  ])('refuses a key that is %s', async (_what, key) => {
    expectProblem(await post('/v1/jobs/echo', { text: 'x' }, { 'idempotency-key': key }), 'KEY_INVALID');
  });

  it('takes a key of exactly 255 bytes', async () => {
    answerOf(await post('/v1/jobs/echo', { text: 'x' }, { 'idempotency-key': 'k'.repeat(255) }), enqueueAnswer, 202);
  });

  it('reports every problem of an input with the path of its field', async () => {
    const problem = expectProblem(
      await post('/v1/jobs/echo', { text: '', items: [{ n: 1 }, { n: 'x' }] }),
      'INPUT_INVALID',
    );
    expect(problem.issues?.map((issue) => issue.path)).toEqual(['text', 'items[1].n']);
    for (const issue of problem.issues ?? []) expect(issue.message).not.toBe('');
    expectProblem(await post('/v1/jobs/echo', '"text"'), 'INPUT_INVALID');
    expectProblem(await post('/v1/jobs/echo', 'null'), 'INPUT_INVALID');
  });

  it.each([
    ['cut off', '{"text":'],
    ['no JSON at all', 'text=hello'],
    ['followed by more', '{"text":"a"} x'],
    ['not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['empty', ''],
  ])('refuses a body that is %s', async (_what, body) => {
    expectProblem(await post('/v1/jobs/echo', body, { 'content-type': 'application/json' }), 'BODY_INVALID');
  });

  it('refuses to go without a body', async () => {
    expectProblem(await post('/v1/jobs/echo'), 'BODY_INVALID');
  });

  it('refuses a body over the limit, announced or not, and takes one at the limit', async () => {
    const body = (length: number) => JSON.stringify({ text: 'x'.repeat(length - '{"text":""}'.length) });
    expectProblem(await post('/v1/jobs/echo', body(BODY_LIMIT_BYTES + 1)), 'BODY_TOO_LARGE');
    answerOf(await post('/v1/jobs/echo', body(BODY_LIMIT_BYTES)), enqueueAnswer, 202);
    const chunked = await fetch(harness.url('/v1/jobs/echo'), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Blob([body(BODY_LIMIT_BYTES + 1)]).stream(),
      duplex: 'half',
    } as RequestInit);
    expect(chunked.status).toBe(413);
    expect(await chunked.json()).toMatchObject({
      code: 'BODY_TOO_LARGE',
      detail: expect.stringContaining(`${BODY_LIMIT_BYTES} bytes`),
    });
  });

  it.each([
    '/v1/jobs/00000000-0000-7000-8000-000000000000/cancel',
    '/v1/jobs/00000000-0000-7000-8000-000000000000/redrive',
    '/v1/redrive',
  ])('refuses more than a few options where no input is taken: %s', async (path) => {
    const body = JSON.stringify(Object.fromEntries(Array.from({ length: 3_000 }, (_, i) => [`k${i}`, 0])));
    expect(body.length).toBeLessThan(BODY_LIMIT_BYTES);
    expectProblem(await post(path, body), 'BODY_TOO_LARGE');
  });

  it('answers a body that is wrong in many places in short, and says how many', async () => {
    const items = Array.from({ length: 15_000 }, () => ({}));
    const problem = expectProblem(await post('/v1/jobs/echo', JSON.stringify({ text: 'a', items })), 'INPUT_INVALID');
    expect(problem.issues).toHaveLength(20);
    expect(problem.issueCount).toBeGreaterThan(20);
    expect(JSON.stringify(problem).length).toBeLessThan(8_000);
  });

  it.each([
    ['a form', { 'content-type': 'application/x-www-form-urlencoded' }],
    ['plain text', { 'content-type': 'text/plain' }],
    ['compressed', { 'content-type': 'application/json', 'content-encoding': 'gzip' }],
    ['of a malformed type', { 'content-type': 'json' }],
  ])('refuses a body that is %s', async (_what, headers) => {
    expectProblem(await post('/v1/jobs/echo', '{"text":"x"}', headers), 'MEDIA_TYPE_UNSUPPORTED');
  });

  it.each(['nothing', '__proto__', 'toString', 'a%00b', '..%2f', 'x'.repeat(400)])(
    'refuses the unknown job name %s',
    async (name) => {
      expectProblem(await post(`/v1/jobs/${name}`, {}), 'JOB_NAME_UNKNOWN');
    },
  );

  it.each([
    'delayMs=-1',
    'delayMs=x',
    'delayMs=',
    'delayMs=1.5',
    'delayMs=99999999999999',
    'priority=-1',
    'priority=2097152',
    'delay=5',
    'delayMs=1&delayMs=2',
  ])('refuses the query %s', async (query) => {
    const problem = expectProblem(await post(`/v1/jobs/echo?${query}`, { text: 'x' }), 'INPUT_INVALID');
    expect(problem.detail).toContain('Query');
  });

  it.each([
    ['delayMs=9007199254740991', 'delayMs: expected a whole number from 0 to 31622400000'],
    ['delayMs=99999999999999', 'delayMs: expected a whole number from 0 to 31622400000'],
    ['delayMs=-1', 'delayMs: expected a whole number from 0 to 31622400000'],
    ['priority=first', 'priority: expected a whole number from 0 to 2097151'],
  ])('says what %s should have been', async (query, detail) => {
    const problem = expectProblem(await post(`/v1/jobs/echo?${query}`, { text: 'x' }), 'INPUT_INVALID');
    expect(problem.detail).toBe(`Query: ${detail}`);
  });

  it('delays a job that asks for it', async () => {
    const { id } = answerOf(await post('/v1/jobs/echo?delayMs=3600000&priority=3', { text: 'x' }), enqueueAnswer, 202);
    const job = answerOf(await get(`/v1/jobs/${id}`), jobAnswer);
    expect(Date.parse(job.runAt) - Date.parse(job.createdAt)).toBeGreaterThan(3_500_000);
    expect(job.status).toBe('pending');
  });

  it('takes any JSON for data: NUL, lone surrogates, __proto__ members, deep nesting', async () => {
    const deep = `${'['.repeat(500)}${']'.repeat(500)}`;
    const body = `["\\u0000","\\ud800","a\\udfff",{"__proto__":{"x":1}},{"constructor":{"prototype":1}},${deep}]`;
    const { id } = answerOf(await post('/v1/jobs/parrot', body), enqueueAnswer, 202);
    expect((await ended(id)).status).toBe('completed');
    const record = await get(`/v1/jobs/${id}`);
    expect(record.body).toContain('"__proto__":{"x":1}');
    expect(record.body).toContain('\\ud800');
    expect(record.body).toContain('\\u0000');
    expect(record.body).toContain(deep);
  });

  it('leaves nothing behind of a request that it refused', async () => {
    await post('/v1/jobs/echo', { text: '' }, { 'idempotency-key': 'refused' });
    expect(answerOf(await get('/v1/jobs?key=refused'), searchAnswer).jobs).toEqual([]);
  });
});

describe('GET /v1/jobs/{id}', () => {
  it('shows the whole record, with its attempts', async () => {
    const { id } = (await post('/v1/jobs/failing', { text: 'x' }, { 'idempotency-key': 'record' })).json();
    const job = await ended(id);
    expect(job).toMatchObject({
      id,
      name: 'failing',
      key: 'record',
      status: 'failed',
      error: { code: 'NON_RETRYABLE', message: 'It cannot be done' },
    });
    expect(job.attempts).toHaveLength(1);
    expect(job.attempts[0]).toMatchObject({ outcome: 'error' });
  });

  it.each([unknownId, 'nothing', '1', `${unknownId}x`, "'; drop table oncefleet.jobs", '%00'])(
    'knows no job %s',
    async (id) => {
      for (const path of ['', '/events'])
        expectProblem(await get(`/v1/jobs/${encodeURIComponent(id)}${path}`), 'JOB_NOT_FOUND');
      for (const path of ['/cancel', '/redrive'])
        expectProblem(await post(`/v1/jobs/${encodeURIComponent(id)}${path}`), 'JOB_NOT_FOUND');
    },
  );

  it('answers HEAD like GET, without a body', async () => {
    const { id } = (await post('/v1/jobs/echo', { text: 'x' })).json();
    const head = await inject(harness.app, { method: 'HEAD', url: `/v1/jobs/${id}` });
    expect([head.statusCode, head.body]).toEqual([200, '']);
  });
});

describe('GET /v1/jobs', () => {
  it('finds jobs by name, key and status, newest first, page by page', async () => {
    const ids: string[] = [];
    for (let n = 0; n < 5; n++)
      ids.push(
        (await post('/v1/jobs/stepper', { gate: 'search', steps: 0 }, { 'idempotency-key': `search-${n}` })).json().id,
      );
    for (const id of ids) await ended(id);
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const from: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
      const page = answerOf(await get(`/v1/jobs?name=stepper&status=completed&limit=2${from}`), searchAnswer);
      expect(page.jobs.length).toBeLessThanOrEqual(2);
      seen.push(...page.jobs.map((job) => job.id));
      cursor = page.nextCursor;
    } while (cursor !== null);
    expect(seen.filter((id) => ids.includes(id))).toEqual(ids.toReversed());
    expect(new Set(seen).size).toBe(seen.length);
    expect(answerOf(await get('/v1/jobs?key=search-3&name=stepper'), searchAnswer).jobs.map((job) => job.id)).toEqual([
      ids[3],
    ]);
    expect(answerOf(await get('/v1/jobs?key=search-3&name=echo'), searchAnswer).jobs).toEqual([]);
  });

  it.each(['status=done', 'name=a%00b', 'limit=0', 'limit=101', 'limit=x', 'tenant=other', 'key=a&key=b'])(
    'refuses the query %s',
    async (query) => {
      expectProblem(await get(`/v1/jobs?${query}`), 'INPUT_INVALID');
    },
  );

  it.each(['key=', 'key=a%00b', `key=${'k'.repeat(256)}`])('refuses the key in %s', async (query) => {
    expectProblem(await get(`/v1/jobs?${query}`), 'KEY_INVALID');
  });

  it.each(['x', '%00', 'eyJ9', '0'])('refuses the cursor %s', async (cursor) => {
    expectProblem(await get(`/v1/jobs?cursor=${cursor}`), 'CURSOR_INVALID');
  });
});

describe('POST /v1/jobs/{id}/cancel', () => {
  it('cancels a running job, and again changes nothing', async () => {
    const { id } = (await post('/v1/jobs/stepper', { gate: 'cancel', steps: 1 })).json();
    await expect.poll(async () => (await get(`/v1/jobs/${id}`)).json().status, { timeout: 15_000 }).toBe('running');
    expect(answerOf(await post(`/v1/jobs/${id}/cancel`), cancelAnswer)).toMatchObject({ id });
    expect((await ended(id)).status).toBe('cancelled');
    expect(answerOf(await post(`/v1/jobs/${id}/cancel`), cancelAnswer)).toEqual({
      id,
      status: 'cancelled',
      outcome: 'finished',
    });
  });

  it('takes an empty JSON body, as clients that always send the header do', async () => {
    const { id } = (await post('/v1/jobs/echo?delayMs=3600000', { text: 'x' })).json();
    answerOf(await post(`/v1/jobs/${id}/cancel`, '', { 'content-type': 'application/json' }), cancelAnswer);
    expect((await ended(id)).status).toBe('cancelled');
  });
});

describe('POST /v1/jobs/{id}/redrive', () => {
  it('runs a failed job again', async () => {
    const { id } = (await post('/v1/jobs/failing', { text: 'x' })).json();
    const { fence } = await ended(id);
    const answer = answerOf(await post(`/v1/jobs/${id}/redrive`), redriveAnswer, 202);
    expect(answer).toMatchObject({ id, links: { events: `/v1/jobs/${id}/events` } });
    await expect
      .poll(async () => (await get(`/v1/jobs/${id}`)).json().fence, { timeout: 15_000 })
      .toBeGreaterThan(fence);
    expect((await ended(id)).attempts.length).toBe(2);
  });

  it('refuses a job that did not fail', async () => {
    const { id } = (await post('/v1/jobs/echo', { text: 'x' })).json();
    await ended(id);
    expectProblem(await post(`/v1/jobs/${id}/redrive`), 'JOB_NOT_FAILED');
  });
});

describe('GET /v1/job-definitions', () => {
  it('tells a stranger what can be enqueued, and how', async () => {
    const { jobs } = answerOf(await get('/v1/job-definitions'), definitionsAnswer);
    expect(jobs.map((job) => job.name)).toEqual(['echo', 'parrot', 'stepper', 'failing']);
    expect(jobs[0]).toMatchObject({
      description: 'Says each word of a text, then the text.',
      input: { type: 'object', required: ['text'], properties: { text: { type: 'string', minLength: 1 } } },
      output: { properties: { said: { type: 'string' } } },
    });
    expect(jobs[3]?.output).toBeNull();
  });
});

describe('tokens', () => {
  const tokens = new Map([
    ['token-of-tenant-a', 'a'],
    ['token-of-tenant-b', 'b'],
  ]);
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

  it('keep tenants apart on every route', async () => {
    const app = harness.another({ tokens });
    const created = await inject(app, {
      method: 'POST',
      url: '/v1/jobs/echo',
      headers: bearer('token-of-tenant-a'),
      payload: { text: 'x' },
    });
    const { id } = answerOf(created, enqueueAnswer, 202);
    for (const [method, path] of [
      ['GET', ''],
      ['GET', '/events'],
      ['POST', '/cancel'],
      ['POST', '/redrive'],
    ] as const) {
      const url = `/v1/jobs/${id}${path}`;
      expectProblem(await inject(app, { method, url, headers: bearer('token-of-tenant-b') }), 'JOB_NOT_FOUND');
    }
    const stream = await inject(app, {
      url: `/v1/jobs/${id}/events`,
      headers: { ...bearer('token-of-tenant-b'), accept: 'text/event-stream' },
    });
    expectProblem(stream, 'JOB_NOT_FOUND');
    expect((await inject(app, { url: '/v1/jobs', headers: bearer('token-of-tenant-b') })).json().jobs).toEqual([]);
    expect((await inject(app, { url: `/v1/jobs/${id}`, headers: bearer('token-of-tenant-a') })).json()).toMatchObject({
      id,
      tenant: 'a',
    });
  });

  it('give each tenant its own keys', async () => {
    const app = harness.another({ tokens });
    const send = (token: string, text: string) =>
      inject(app, {
        method: 'POST',
        url: '/v1/jobs/echo',
        headers: { ...bearer(token), 'idempotency-key': 'shared' },
        payload: { text },
      });
    const a = answerOf(await send('token-of-tenant-a', 'one'), enqueueAnswer, 202);
    const b = answerOf(await send('token-of-tenant-b', 'two'), enqueueAnswer, 202);
    expect(b.id).not.toBe(a.id);
    expect(b.outcome).toBe('created');
  });

  it.each([
    ['none', {}],
    ['an unknown one', bearer('token-of-tenant-c')],
    ['a prefix of one', bearer('token-of-tenant-')],
    ['an empty one', { authorization: 'Bearer ' }],
    ['one of another scheme', { authorization: `Basic ${Buffer.from('x:token-of-tenant-a').toString('base64')}` }],
  ])('are needed on every route: %s is refused', async (_what, headers) => {
    const app = harness.another({ tokens });
    for (const [method, url] of [
      ['POST', '/v1/jobs/echo'],
      ['GET', '/v1/jobs'],
      ['GET', '/v1/job-definitions'],
      ['GET', `/v1/jobs/${unknownId}`],
      ['GET', `/v1/jobs/${unknownId}/events`],
      ['POST', `/v1/jobs/${unknownId}/cancel`],
      ['POST', `/v1/jobs/${unknownId}/redrive`],
    ] as const) {
      const response = await inject(app, { method, url, headers });
      expectProblem(response, 'UNAUTHORIZED');
      expect(response.headers['www-authenticate']).toMatch(/^Bearer realm=/);
    }
  });

  it('may stand in the query of the events alone', async () => {
    const app = harness.another({ tokens });
    const { id } = (
      await inject(app, {
        method: 'POST',
        url: '/v1/jobs/echo',
        headers: bearer('token-of-tenant-a'),
        payload: { text: 'x' },
      })
    ).json();
    expect((await inject(app, `/v1/jobs/${id}/events?token=token-of-tenant-a`)).statusCode).toBe(200);
    expectProblem(await inject(app, `/v1/jobs/${id}/events?token=token-of-tenant-b`), 'JOB_NOT_FOUND');
    expectProblem(await inject(app, `/v1/jobs/${id}/events?token=nonsense`), 'UNAUTHORIZED');
    expectProblem(await inject(app, `/v1/jobs/${id}?token=token-of-tenant-a`), 'UNAUTHORIZED');
    const both = await inject(app, {
      url: `/v1/jobs/${id}/events?token=token-of-tenant-a`,
      headers: bearer('nonsense'),
    });
    expectProblem(both, 'UNAUTHORIZED');
    const besideBasic = await inject(app, {
      url: `/v1/jobs/${id}/events?token=token-of-tenant-a`,
      headers: { authorization: 'Basic YWRtaW46cGFzc3dvcmQ=' },
    });
    expect(besideBasic.statusCode, 'a password that a browser sent along does not hide the token').toBe(200);
  });

  it('are not asked for where a probe or a stranger looks first', async () => {
    const app = harness.another({ tokens });
    for (const url of ['/healthz', '/readyz', '/openapi.json']) expect((await inject(app, url)).statusCode).toBe(200);
  });
});
