/** How often a caller may ask, how many streams it may have open, and what every answer tells a browser. */
import type { FastifyInstance, InjectOptions } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addressCaller } from '../../src/http/request-limits.ts';
import { gate, type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';

const ADMIN = 'admin-token-0123456789';
const ACME = 'token-of-tenant-acme';
const ZOO = 'token-of-tenant-zoo-';
const UUID = '01980000-0000-7000-8000-000000000000';
const TOKENS = new Map([
  [ACME, 'acme'],
  [ZOO, 'zoo'],
]);
const CONSOLE = ['/', '/fleet', '/playground', '/redrive', `/jobs/${UUID}`, '/login', '/console/style.css', '/nothing'];

let harness: Harness;
let routes: [method: 'GET' | 'POST' | 'PUT' | 'DELETE', url: string][];
beforeAll(async () => {
  harness = await startHarness();
  const { paths } = (await inject(harness.another({ tokens: TOKENS }), '/openapi.json')).json() as {
    paths: Record<string, Record<string, unknown>>;
  };
  routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method): (typeof routes)[number] => [
      method.toUpperCase() as 'GET',
      path.replace(/\{[^}]*\}/g, UUID),
    ]),
  );
});
afterAll(() => harness?.close());

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

/** Asks until it is refused; a slow machine is allowed some more meanwhile. */
async function exhaust(app: FastifyInstance, request: InjectOptions): Promise<void> {
  await expect.poll(async () => (await inject(app, request)).statusCode, { interval: 1, timeout: 60_000 }).toBe(429);
}

/** The answer to a request that comes right after its caller was refused. */
async function refused(app: FastifyInstance, like: InjectOptions, request: InjectOptions) {
  let answer = await inject(app, request);
  for (let tries = 0; answer.statusCode !== 429 && tries < 10; tries++) {
    await exhaust(app, like);
    answer = await inject(app, request);
  }
  return answer;
}

describe('a caller that asks more often than it may', { timeout: 120_000 }, () => {
  it('is told to wait by every route that needs a token, in the shape of the route’s errors', async () => {
    const app = harness.another({ tokens: TOKENS, requestsPerSecond: 1 });
    const like = { url: `/v1/jobs/${UUID}`, headers: bearer(ACME) };
    const api = routes.filter(([, url]) => url.startsWith('/v1/') || url.startsWith('/api/chat'));
    expect(api.length).toBeGreaterThan(20);
    const shapes = new Set<string>();
    for (const [method, url] of api) {
      const answer = await refused(app, like, { method, url, headers: bearer(ACME) });
      expect(answer.statusCode, `${method} ${url}`).toBe(429);
      expect(Number(answer.headers['retry-after']), url).toBeGreaterThan(0);
      const body = answer.json() as { code?: string; error?: { code: string; type: string } };
      if (body.error === undefined) expect(body.code, url).toBe('TOO_MANY_REQUESTS');
      else expect(body.error, url).toMatchObject({ code: 'rate_limit_exceeded', type: 'rate_limit_error' });
      shapes.add(body.error === undefined ? 'problem' : 'openai');
    }
    expect(shapes).toEqual(new Set(['problem', 'openai']));
    // Another token of the same address, and a probe, are not told so.
    expect((await inject(app, { ...like, headers: bearer(ZOO) })).statusCode).toBe(404);
    expect((await inject(app, '/healthz')).statusCode).toBe(200);
  });

  it('is told so by the pages and what needs no token, by its address', async () => {
    const app = harness.another({ tokens: TOKENS, adminToken: ADMIN, requestsPerSecond: 1 });
    for (const url of [...CONSOLE, '/openapi.json', '/admin/queues'])
      expect((await refused(app, { url: '/openapi.json' }, { url })).statusCode, url).toBe(429);
    // Wrong tokens are no new callers, and lock out nobody that has a good one.
    for (let n = 0; n < 3; n++) {
      const wrong = { url: `/v1/jobs/${UUID}`, headers: bearer(`made-up-token-${n}-abcdef`) };
      expect((await refused(app, { url: '/openapi.json' }, wrong)).statusCode).toBe(429);
    }
    expect((await inject(app, { url: `/v1/jobs/${UUID}`, headers: bearer(ACME) })).statusCode).toBe(404);
  });

  it('is let in again when it has waited', async () => {
    const app = harness.another({ tokens: TOKENS, requestsPerSecond: 50 });
    const like = { url: `/v1/jobs/${UUID}`, headers: bearer(ACME) };
    await exhaust(app, like);
    await expect.poll(async () => (await inject(app, like)).statusCode, { timeout: 60_000 }).toBe(404);
  });

  it('is told apart from others by x-forwarded-for of trusted proxies alone', async () => {
    const from = (address: string) => ({ url: '/openapi.json', headers: { 'x-forwarded-for': address } });
    const trusting = harness.another({ tokens: TOKENS, requestsPerSecond: 1, trustedProxies: ['127.0.0.0/8'] });
    await exhaust(trusting, from('192.0.2.1'));
    expect((await inject(trusting, from('192.0.2.2'))).statusCode).toBe(200);
    // What a client puts in front of what the proxy has added is the client's own.
    expect((await refused(trusting, from('192.0.2.1'), from('192.0.2.9, 192.0.2.1'))).statusCode).toBe(429);
    const plain = harness.another({ tokens: TOKENS, requestsPerSecond: 1 });
    expect((await refused(plain, from('192.0.2.1'), from('192.0.2.2'))).statusCode).toBe(429);
  });

  it('is no other one for another address of its network', () => {
    expect(addressCaller('2001:db8:0:1::5')).toBe(addressCaller('2001:db8:0:1:2:3:4:5'));
    expect(addressCaller('2001:db8::1')).not.toBe(addressCaller('2001:db8:0:1::1'));
    expect(addressCaller('192.0.2.1')).not.toBe(addressCaller('192.0.2.2'));
  });
});

it('a caller has as many streams open as it may, and a place is free when one ends', { timeout: 120_000 }, async () => {
  const app = harness.another({ tokens: TOKENS, streamsPerCaller: 2 });
  const port = await listenLocally(app);
  const { id } = await harness.fleet.enqueue('stepper', { gate: 'limits', steps: 1 }, { tenant: 'acme' });
  const open = async (path = `/v1/jobs/${id}/events`) => {
    const abort = new AbortController();
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      headers: { ...bearer(ACME), accept: 'text/event-stream' },
      signal: abort.signal,
    });
    return { status: response.status, retryAfter: response.headers.get('retry-after'), close: () => abort.abort() };
  };
  const first = await open();
  const second = await open(`/v1/events?streams=${id}`);
  expect([first.status, second.status]).toEqual([200, 200]);
  for (const path of [`/v1/jobs/${id}/events`, `/v1/events?streams=${id}`])
    expect(await open(path)).toMatchObject({ status: 429, retryAfter: '5' });
  first.close();
  const again: Awaited<ReturnType<typeof open>>[] = [];
  await expect
    .poll(
      async () => {
        again.push(await open());
        return again.at(-1)?.status;
      },
      { timeout: 60_000 },
    )
    .toBe(200);
  gate.open('limits');
  second.close();
  for (const one of again) one.close();
});

it('a response that follows several jobs takes a place for each', { timeout: 120_000 }, async () => {
  const port = await listenLocally(harness.another({ tokens: TOKENS, streamsPerCaller: 3 }));
  const ids = await Promise.all(
    [0, 1, 2, 3].map(async () => {
      const input = { gate: 'several', steps: 1 };
      return (await harness.fleet.enqueue('stepper', input, { tenant: 'acme' })).id;
    }),
  );
  const stop = new AbortController();
  const open = async (count: number) => {
    const url = `http://127.0.0.1:${port}/v1/events?streams=${ids.slice(0, count)}`;
    return (await fetch(url, { headers: bearer(ACME), signal: stop.signal })).status;
  };
  expect(await open(4)).toBe(429);
  expect(await open(2)).toBe(200);
  expect(await open(2)).toBe(429);
  expect(await open(1)).toBe(200);
  expect(await open(1)).toBe(429);
  stop.abort();
  gate.open('several', 4);
});

describe('every answer', () => {
  it('has the headers that keep browsers from making something else of it', async () => {
    const app = harness.another({ tokens: TOKENS, adminToken: ADMIN });
    const urls = [...CONSOLE, '/admin/queues', '/healthz', '/openapi.json'].map((url): [string, string] => [
      'GET',
      url,
    ]);
    for (const [method, url] of [...routes, ...urls]) {
      for (const headers of [{}, bearer(ACME)]) {
        const answer = await inject(app, { method: method as 'GET', url, headers });
        const has = answer.headers;
        const what = `${method} ${url}: ${answer.statusCode}`;
        expect(has['x-content-type-options'], what).toBe('nosniff');
        expect(has['content-security-policy'], what).toMatch(/frame-ancestors '(none|self)'/);
        expect(has['referrer-policy'], what).toMatch(/^(same-origin|no-referrer)$/);
        expect(has['cross-origin-resource-policy'], what).toBe('same-origin');
        expect(has['cross-origin-opener-policy'], what).toBe('same-origin');
        expect(has['cache-control'], what).toMatch(url.includes('style.css') ? /immutable/ : /no-store|no-cache/);
        expect(has['strict-transport-security'], what).toBeUndefined();
        expect(has['server'], what).toBeUndefined();
        expect(has['x-powered-by'], what).toBeUndefined();
      }
    }
  });

  it('says to stay with TLS where a trusted proxy says that it came by it', async () => {
    const headers = { 'x-forwarded-proto': 'https' };
    const trusting = harness.another({ tokens: TOKENS, trustedProxies: ['127.0.0.1'] });
    expect((await inject(trusting, { url: '/healthz', headers })).headers['strict-transport-security']).toBe(
      'max-age=31536000',
    );
    const plain = harness.another({ tokens: TOKENS });
    expect((await inject(plain, { url: '/healthz', headers })).headers['strict-transport-security']).toBeUndefined();
  });
});
