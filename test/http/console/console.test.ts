/** The console over HTTP: who sees what, what is done and noted, and that texts from outside stay texts. */
import type { FastifyInstance, InjectOptions } from 'fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gate, type Harness, startHarness } from '../harness.ts';
import { inject } from '../requests.ts';

const ADMIN = 'admin-token-0123456789';
const ACME = 'token-of-tenant-acme';
const EVIL = '</pre><script>alert(1)</script><img src=x onerror=alert(1)>"\'`{{1}}\u202e\u0007';
const HTML = { accept: 'text/html' };

let harness: Harness;
let app: FastifyInstance;
let evilId: string;
let otherId: string;

beforeAll(async () => {
  harness = await startHarness();
  app = harness.another({ tokens: new Map([[ACME, 'acme']]), adminToken: ADMIN, redactedFields: ['secret'] });
  const evil = await harness.fleet.enqueue('parrot', [{ type: EVIL, secret: 'hidden-value', [EVIL]: EVIL }], {
    tenant: 'acme',
    key: EVIL.replaceAll('\u0007', ''),
  });
  await evil.result();
  evilId = evil.id;
  await sql`update oncefleet.jobs set queue = ${EVIL}, name = ${EVIL}, status = 'failed',
    error = ${JSON.stringify({ code: EVIL, message: EVIL })} where id = ${evilId}`.execute(harness.fleet.db);
  otherId = (await harness.fleet.enqueue('failing', { text: 'x' }, { tenant: 'other' })).id;
  await harness.fleet.result(otherId, { tenant: 'other' }).catch(() => {});
});
afterAll(() => harness?.close());

const form = (fields: Record<string, string>) => ({
  payload: new URLSearchParams(fields).toString(),
  headers: { 'content-type': 'application/x-www-form-urlencoded', ...HTML },
});

async function logIn(token: string, on = app, headers: Record<string, string> = {}) {
  const body = form({ token });
  return inject(on, { method: 'POST', url: '/login', ...body, headers: { ...body.headers, ...headers } });
}
async function cookieOf(token: string): Promise<string> {
  return String((await logIn(token)).headers['set-cookie']).split(';', 1)[0] as string;
}
const as = async (cookie: string, request: InjectOptions) =>
  inject(app, { ...request, headers: { ...HTML, ...request.headers, cookie } });

const PAGES = ['/', '/fleet', '/playground', '/redrive', '/jobs/ID', '/jobs/ID/cancel', '/jobs/ID/redrive'];

describe('a page', () => {
  it.each([...PAGES, '/console/jobs/ID/events', '/playground/documents/a/b'])('needs a login: %s', async (path) => {
    const url = path.replace('ID', evilId);
    const page = await inject(app, { url, headers: HTML });
    expect([page.statusCode, page.headers.location]).toEqual([303, `/login?next=${encodeURIComponent(url)}`]);
    expect((await inject(app, url)).json()).toMatchObject({ status: 401, code: 'UNAUTHORIZED' });
    for (const cookie of ['oncefleet_session=', 'oncefleet_session=x', `oncefleet_session=ofs_${'A'.repeat(49)}`])
      expect((await as(cookie, { url })).statusCode).toBe(303);
  });

  it.each(PAGES)('is shown, and no text of a job is markup in it: %s', async (path) => {
    const cookie = await cookieOf(ADMIN);
    const page = await as(cookie, { url: path.replace('ID', evilId) });
    expect(page.statusCode).toBe(200);
    expect(page.headers['content-type']).toBe('text/html; charset=utf-8');
    const policy = String(page.headers['content-security-policy']);
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toContain('unsafe');
    expect(page.body).not.toMatch(/<script>|<img|onerror=alert\(1\)>|\u202e/);
    expect(page.body).not.toMatch(/ style=| onclick=/);
  });

  it('shows what it repeats of a query as a text', async () => {
    const cookie = await cookieOf(ADMIN);
    const all = ['id', 'key', 'tenant', 'name', 'queue', 'status', 'code', 'error', 'hours'];
    const query = new URLSearchParams(
      all.map((name): [string, string] => [name, EVIL.replaceAll('\u0007', '')]),
    ).toString();
    for (const path of ['/', '/redrive', '/playground', '/login']) {
      const { body } = await as(cookie, { url: `${path}?${query}&next=${encodeURIComponent(EVIL)}` });
      expect(body, path).not.toMatch(/<script>|<img/);
    }
  });

  it.each(['secret', 'SECRET'])('does not show the value of a field that is named as secret (%s)', async () => {
    const cookie = await cookieOf(ADMIN);
    for (const url of [`/jobs/${evilId}`, `/console/jobs/${evilId}/events`]) {
      const { body, statusCode } = await as(cookie, { url, headers: { accept: 'text/html, text/event-stream' } });
      expect(statusCode).toBe(200);
      expect(body).toContain('[redacted]');
      expect(body).not.toContain('hidden-value');
    }
  });

  it('of a job that waits for a place under its limit says so', async () => {
    const { id } = await harness.fleet.enqueue('echo', { text: 'x' }, { tenant: 'acme', delayMs: 3_600_000 });
    const shown = async () => (await as(await cookieOf(ADMIN), { url: `/jobs/${id}` })).body;
    expect(await shown()).not.toContain('limit');
    await sql`update oncefleet.jobs set limited_count = 2 where id = ${id}`.execute(harness.fleet.db);
    expect(await shown()).toMatch(/when a place under its limit is free(.|\n)*met limits 2 times/);
  });

  it('of a tenant has that tenant alone', async () => {
    const cookie = await cookieOf(ACME);
    const list = await as(cookie, { url: '/?tenant=other' });
    expect(list.body).toContain(evilId);
    expect(list.body).not.toContain(otherId);
    for (const path of [`/jobs/${otherId}`, `/jobs/${otherId}/redrive`, `/console/jobs/${otherId}/events`])
      expect((await as(cookie, { url: path })).statusCode).toBe(404);
    const post = await as(cookie, { method: 'POST', url: `/jobs/${otherId}/redrive`, ...form({}) });
    expect(post.statusCode).toBe(404);
    expect((await as(await cookieOf(ADMIN), { url: `/jobs/${otherId}` })).statusCode).toBe(200);
  });
});

describe('a search', () => {
  const shown = async (query: string) =>
    (await as(await cookieOf(ADMIN), { url: `/?${query}` })).body.includes(otherId);

  it.each([
    ['tenant=other', true],
    ['tenant=acme', false],
    ['name=failing', true],
    ['name=echo', false],
    ['queue=failing', true],
    ['queue=echo', false],
    ['status=failed', true],
    ['status=completed', false],
    ['code=NON_RETRYABLE', true],
    ['code=TIMEOUT', false],
    ['error=cannot+DONE', true],
    ['error=cannot+undone', false],
    ['error=%25', false],
    ['error=c_nnot', false],
    ['tenant=other&name=failing&status=failed&code=NON_RETRYABLE&error=done', true],
  ])('%s: %s', async (query, found) => {
    expect(await shown(query)).toBe(found);
  });

  it('by key finds the job of any tenant', async () => {
    const { id } = await harness.fleet.enqueue('echo', { text: 'x' }, { tenant: 'third', key: 'a key' });
    const { body } = await as(await cookieOf(ADMIN), { url: '/?key=a+key' });
    expect(body).toContain(id);
    expect(body).not.toContain(otherId);
  });

  it('by id opens the job', async () => {
    const answer = await as(await cookieOf(ADMIN), { url: `/?id=${otherId}` });
    expect([answer.statusCode, answer.headers.location]).toEqual([303, `/jobs/${otherId}`]);
  });

  it.each(['cursor=x', 'cursor=1', 'key=%00'])('with %s says what is wrong', async (query) => {
    const page = await as(await cookieOf(ADMIN), { url: `/?${query}` });
    expect(page.statusCode).toBe(400);
    expect(page.headers['content-type']).toContain('text/html');
  });
});

describe('an action', () => {
  it('is asked again, done, and noted with who did it', async () => {
    const cookie = await cookieOf(ADMIN);
    const ask = await as(cookie, { url: `/jobs/${otherId}/redrive` });
    expect(ask.body).toContain(`<form method="post" action="/jobs/${otherId}/redrive"`);
    expect((await harness.fleet.get(otherId, { tenant: 'other' }))?.attempts).toHaveLength(1);
    const done = await as(cookie, { method: 'POST', url: `/jobs/${otherId}/redrive`, ...form({}) });
    expect([done.statusCode, done.headers.location]).toEqual([303, `/jobs/${otherId}`]);
    await expect
      .poll(async () => (await harness.fleet.get(otherId, { tenant: 'other' }))?.attempts.length)
      .toBeGreaterThan(1);
    const audit = await harness.fleet.inspector.audit(null, otherId);
    expect(audit).toMatchObject([{ actor: 'operator', action: 'redrive', tenant: 'other', outcome: 'redriven' }]);
    expect((await as(cookie, { url: `/jobs/${otherId}` })).body).toContain('Done in the console');
  });

  it('that is refused is noted as refused', async () => {
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'audit', steps: 1 }, { tenant: 'acme' });
    const answer = await as(await cookieOf(ACME), { method: 'POST', url: `/jobs/${id}/redrive`, ...form({}) });
    expect(answer.statusCode).toBe(409);
    expect(await harness.fleet.inspector.audit('acme', id)).toMatchObject([
      { actor: 'acme', outcome: 'refused: JOB_NOT_FAILED' },
    ]);
    gate.open('audit');
  });

  it('needs the scope of it', async () => {
    const { token } = await harness.fleet.tokens.create({ name: 'looks', scopes: ['read'], tenant: 'acme' });
    const cookie = await cookieOf(token);
    for (const path of [`/jobs/${evilId}/redrive`, `/jobs/${evilId}/cancel`, '/redrive', '/playground/ask'])
      expect((await as(cookie, { method: 'POST', url: path, ...form({ sure: 'yes' }) })).statusCode).toBe(403);
    const { body } = await as(cookie, { url: `/jobs/${evilId}` });
    expect(body).not.toMatch(/Redrive…|Cancel…/);
  });

  it.each([
    ['of another origin', { origin: 'https://evil.example' }],
    ['that a browser says comes from another site', { 'sec-fetch-site': 'cross-site' }],
    ['of another port of this machine', { 'sec-fetch-site': 'same-site' }],
  ])('%s is refused, with the cookie', async (_title, headers) => {
    const cookie = await cookieOf(ADMIN);
    for (const path of [`/jobs/${otherId}/redrive`, '/redrive', '/logout', '/login', '/playground/upload']) {
      const body = form({ token: ADMIN });
      const answer = await as(cookie, { method: 'POST', url: path, ...body, headers: { ...body.headers, ...headers } });
      expect([path, answer.statusCode]).toEqual([path, 403]);
    }
  });

  it('redrives many of a tenant, once it is sure', async () => {
    const cookie = await cookieOf(ADMIN);
    const many = (fields: Record<string, string>) => as(cookie, { method: 'POST', url: '/redrive', ...form(fields) });
    expect((await many({ tenant: 'other' })).statusCode).toBe(400);
    expect((await many({ sure: 'yes' })).statusCode).toBe(400);
    await expect.poll(async () => (await harness.fleet.get(otherId, { tenant: 'other' }))?.status).toBe('failed');
    const answer = await many({ tenant: 'other', sure: 'yes', canary: '1' });
    expect(answer.statusCode).toBe(200);
    expect(answer.body).toContain('Canaries did not complete');
  });
});

describe('a session', () => {
  it('has a cookie that scripts and other sites do not get, and over TLS alone where there is TLS', async () => {
    const plain = String((await logIn(ADMIN)).headers['set-cookie']);
    expect(plain).toMatch(/^oncefleet_session=ofs_\S+; Path=\/; Max-Age=43200; HttpOnly; SameSite=Strict$/);
    expect(String((await logIn(ADMIN, app, { 'x-forwarded-proto': 'https' })).headers['set-cookie'])).toMatch(
      /; Secure$/,
    );
  });

  it.each(['//evil.example', 'https://evil.example', '/\\evil.example', 'javascript:alert(1)', '/a\nb'])(
    'leads to no other place: %j',
    async (next) => {
      const answer = await inject(app, { method: 'POST', url: '/login', ...form({ token: ADMIN, next }) });
      expect(answer.headers.location).toBe('/');
    },
  );

  it('ends with a logout, for whoever has the cookie', async () => {
    const cookie = await cookieOf(ADMIN);
    expect((await as(cookie, { url: '/' })).statusCode).toBe(200);
    await as(cookie, { method: 'POST', url: '/logout', ...form({}) });
    expect((await as(cookie, { url: '/' })).statusCode).toBe(303);
  });

  it('ends with its token, in Postgres or in the settings', async () => {
    const { token, id } = await harness.fleet.tokens.create({ name: 'short', scopes: ['read'], tenant: 'acme' });
    const cookie = await cookieOf(token);
    expect((await as(cookie, { url: '/' })).statusCode).toBe(200);
    await harness.fleet.tokens.revoke(id);
    expect((await as(cookie, { url: '/' })).statusCode).toBe(303);
    const changed = harness.another({ tokens: new Map([['another-token-of-acme', 'acme']]), adminToken: `${ADMIN}-2` });
    for (const old of [ADMIN, ACME]) {
      const headers = { ...HTML, cookie: await cookieOf(old) };
      expect((await inject(changed, { url: '/', headers })).statusCode).toBe(303);
    }
  });

  it('is not opened by a wrong token, and after some of them not at all for a while', async () => {
    const strict = harness.another({ tokens: new Map([[ACME, 'acme']]) });
    const { token } = await harness.fleet.tokens.create({ name: 'no reader', scopes: ['enqueue'], tenant: 'acme' });
    for (const wrong of ['', 'wrong', ADMIN, token, `${ACME} `.repeat(2)])
      expect((await logIn(wrong, strict)).statusCode).toBe(401);
    for (let n = 0; n < 5; n++) await logIn('wrong', strict);
    const late = await logIn(ACME, strict);
    expect(late.statusCode).toBe(429);
    expect(Number(late.headers['retry-after'])).toBeGreaterThan(0);
    expect(late.headers['set-cookie']).toBeUndefined();
  });

  it('of an operator opens Bull Board, and that of a tenant does not', async () => {
    const url = '/admin/queues/api/queues';
    expect((await as(await cookieOf(ADMIN), { url })).statusCode).toBe(200);
    const browser = await inject(app, { url: '/admin/queues', headers: HTML });
    expect([browser.statusCode, browser.headers.location]).toEqual([303, '/login?next=%2Fadmin%2Fqueues']);
    expect((await inject(app, url)).statusCode).toBe(401);
    expect((await as(await cookieOf(ACME), { url, headers: { accept: 'application/json' } })).statusCode).toBe(401);
  });

  it('is no token of the API', async () => {
    const cookie = await cookieOf(ADMIN);
    const text = cookie.split('=')[1] as string;
    expect((await as(cookie, { url: '/v1/jobs' })).statusCode).toBe(401);
    expect((await inject(app, { url: '/v1/jobs', headers: { authorization: `Bearer ${text}` } })).statusCode).toBe(401);
  });
});

it('without tokens everybody who reaches the server sees all of it', async () => {
  const { statusCode, body } = await inject(harness.app, { url: '/', headers: HTML });
  expect(statusCode).toBe(200);
  expect(body).toContain(otherId);
  expect(body).not.toContain('Log out');
});
