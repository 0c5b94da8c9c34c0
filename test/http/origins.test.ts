/** What a web page of somebody else can do through the browser of a person who can reach the server. */
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startWeb } from '../../src/cli/services.ts';
import { loadConfig } from '../../src/config.ts';
import { silentLogger } from '../../src/log.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const tokens = new Map([['token-of-tenant-a', 'a']]);
const ADMIN = 'admin-token-of-16-or-more';
const basic = { authorization: `Basic ${Buffer.from(`x:${ADMIN}`).toString('base64')}` };
const EVIL = 'https://evil.example';

const PATHS = [
  '/v1/jobs',
  '/v1/job-definitions',
  '/openapi.json',
  '/v1/nothing',
  '/admin/queues/',
  '/admin/queues/api/queues',
];

describe('without tokens', () => {
  it.each(PATHS)('no page of another origin can read %s', async (url) => {
    for (const method of ['GET', 'OPTIONS'] as const) {
      const { headers } = await inject(harness.app, { method, url, headers: { origin: EVIL } });
      expect(Object.keys(headers).filter((name) => name.startsWith('access-control-'))).toEqual([]);
    }
  });

  it.each(PATHS)('%s is served under loopback names and HOST alone', async (url) => {
    const app = harness.another({ host: 'tools.internal' });
    for (const host of [
      '127.0.0.1:3000',
      'localhost',
      'LOCALHOST:1',
      '[::1]:3000',
      'a.localhost',
      '127.9.9.9',
      'tools.internal:80',
    ])
      expect((await inject(app, { url, headers: { host } })).statusCode, host).not.toBe(421);
    const foreign = [
      'evil.example',
      'evil.example:3000',
      '127.0.0.1.evil.example',
      'localhost.evil.example',
      '10.0.0.1',
      '0.0.0.0',
      '[::]',
      'tools.internal.evil.example',
      '2130706433',
      '::1.evil',
      'evil.example@localhost',
    ];
    for (const host of foreign) {
      const response = await inject(app, { url, headers: { host } });
      expect({ host, status: response.statusCode }).toEqual({ host, status: 421 });
      expect(response.json()).toMatchObject({ code: 'HOST_UNKNOWN' });
    }
  });

  it('a foreign name enqueues nothing, and health is told under any', async () => {
    const headers = { host: 'evil.example', 'idempotency-key': 'rebound' };
    const response = await inject(harness.app, {
      method: 'POST',
      url: '/v1/jobs/echo',
      headers,
      payload: { text: 'x' },
    });
    expect(response.statusCode).toBe(421);
    expect((await inject(harness.app, '/v1/jobs?key=rebound')).json().jobs).toEqual([]);
    for (const url of ['/healthz', '/readyz'])
      expect((await inject(harness.app, { url, headers: { host: '10.1.2.3:3000' } })).statusCode).toBe(200);
  });

  it('a page of an origin that was named may call', async () => {
    const app = harness.another({ corsOrigins: ['http://localhost:5173'] });
    const ask = (origin: string, method: 'GET' | 'OPTIONS' | 'POST' = 'GET') =>
      inject(app, {
        method,
        url: method === 'POST' ? '/v1/jobs/echo' : '/v1/jobs',
        headers: { origin, 'sec-fetch-site': 'cross-site' },
        ...(method === 'POST' ? { payload: { text: 'x' } } : {}),
      });
    expect((await ask('http://localhost:5173')).headers).toMatchObject({
      'access-control-allow-origin': 'http://localhost:5173',
      vary: 'origin',
    });
    expect((await ask('http://localhost:5173', 'OPTIONS')).headers['access-control-allow-methods']).toContain('POST');
    expect((await ask('http://localhost:5173', 'POST')).statusCode).toBe(202);
    expect((await ask(EVIL)).headers).not.toHaveProperty('access-control-allow-origin');
    expect((await ask(EVIL, 'POST')).statusCode).toBe(403);
  });

  it('anyone may call under any name where that was asked for, but no page of another origin writes', async () => {
    const app = harness.another({ allowAnyone: true });
    const host = 'fleet.example';
    expect((await inject(app, { url: '/v1/jobs', headers: { host } })).statusCode).toBe(200);
    const write = { method: 'POST' as const, url: '/v1/jobs/echo', payload: { text: 'x' } };
    expect((await inject(app, { ...write, headers: { host, origin: EVIL } })).statusCode).toBe(403);
    expect((await inject(app, { ...write, headers: { host, origin: `https://${host}` } })).statusCode).toBe(202);
  });
});

describe('with tokens', () => {
  it('pages of any origin may call with a token, or of those that were named', async () => {
    const open = harness.another({ tokens });
    const named = harness.another({ tokens, corsOrigins: ['https://app.example'] });
    const headers = { authorization: 'Bearer token-of-tenant-a', host: 'fleet.example' };
    const originOf = async (app: FastifyInstance, origin: string) =>
      (await inject(app, { url: '/v1/jobs', headers: { ...headers, origin } })).headers['access-control-allow-origin'];
    expect(await originOf(open, EVIL)).toBe('*');
    expect(await originOf(named, 'https://app.example')).toBe('https://app.example');
    expect(await originOf(named, EVIL)).toBeUndefined();
  });
});

describe("Bull Board's writes", () => {
  const WRITES = [
    ['PUT', '/admin/queues/api/queues/echo/pause'],
    ['PUT', '/admin/queues/api/queues/pause'],
    ['PUT', '/admin/queues/api/queues/echo/obliterate'],
    ['POST', '/admin/queues/api/queues/echo/add'],
    ['PATCH', '/admin/queues/api/queues/echo/1/update-data'],
  ] as const;
  const SENT_BY_OTHERS = [
    { origin: EVIL },
    { origin: 'null' },
    { origin: 'http://localhost:5173', 'sec-fetch-site': 'same-site' },
    { origin: 'http://localhost', 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'cross-site' },
    { origin: 'not an origin' },
    { origin: 'http://localhost.evil.example' },
  ];

  it.each(WRITES)('%s %s is refused to pages of other origins, also with the password', async (method, url) => {
    for (const app of [
      harness.app,
      harness.another({ tokens, adminToken: ADMIN }),
      harness.another({ corsOrigins: [EVIL] }),
    ])
      for (const from of SENT_BY_OTHERS) {
        const response = await inject(app, {
          method,
          url,
          headers: { host: 'localhost', ...basic, ...from },
          payload: {},
        });
        expect({ from, status: response.statusCode }).toEqual({ from, status: 403 });
        expect(response.json()).toMatchObject({ code: 'ORIGIN_REFUSED' });
      }
    expect(await harness.fleet.queues[0]?.isPaused()).toBe(false);
  });

  it('are taken from its own pages, also behind a proxy, and from what is no browser', async () => {
    const app = harness.another({ tokens, adminToken: ADMIN });
    for (const from of [
      {},
      { origin: 'http://localhost' },
      { 'sec-fetch-site': 'same-origin', origin: 'https://board.example' },
      { 'sec-fetch-site': 'none' },
    ]) {
      const url = '/admin/queues/api/queues/echo/resume';
      const response = await inject(app, { method: 'PUT', url, headers: { host: 'localhost', ...basic, ...from } });
      expect({ from, status: response.statusCode }).toEqual({ from, status: 200 });
    }
  });
});

describe('the configuration', () => {
  const base = { DATABASE_URL: 'postgres://u:p@h/d', REDIS_URL: 'redis://h' };
  const problem = (env: Record<string, string>) => {
    try {
      loadConfig({ ...base, ...env });
      return undefined;
    } catch (error) {
      return (error as { issues: { path: string }[] }).issues.map(({ path }) => path);
    }
  };

  it.each([
    ['a blank in a token', { ONCEFLEET_TOKENS: 'a:0123456789 0123456789' }, ['ONCEFLEET_TOKENS']],
    ['an umlaut in a token', { ONCEFLEET_TOKENS: 'a:0123456789-ö-0123456' }, ['ONCEFLEET_TOKENS']],
    ['a control character in a token', { ONCEFLEET_TOKENS: 'a:0123456789\u00010123456' }, ['ONCEFLEET_TOKENS']],
    ['a token given twice', { ONCEFLEET_TOKENS: 'a:0123456789abcdef,a:0123456789abcdef' }, ['ONCEFLEET_TOKENS']],
    ['a token of two tenants', { ONCEFLEET_TOKENS: 'a:0123456789abcdef,b:0123456789abcdef' }, ['ONCEFLEET_TOKENS']],
    [
      'an admin token that is a tenant’s',
      { ONCEFLEET_TOKENS: 'a:0123456789abcdef', ONCEFLEET_ADMIN_TOKEN: '0123456789abcdef' },
      ['ONCEFLEET_ADMIN_TOKEN'],
    ],
    [
      'a control character in the admin token',
      { ONCEFLEET_ADMIN_TOKEN: '0123456789\u0001abcdef' },
      ['ONCEFLEET_ADMIN_TOKEN'],
    ],
    ['any origin without tokens', { ONCEFLEET_CORS_ORIGINS: '*' }, ['ONCEFLEET_CORS_ORIGINS']],
    ['an origin with a path', { ONCEFLEET_CORS_ORIGINS: 'https://a.example/' }, ['ONCEFLEET_CORS_ORIGINS']],
    ['what is no origin', { ONCEFLEET_CORS_ORIGINS: 'a.example' }, ['ONCEFLEET_CORS_ORIGINS']],
    ['two tokens of a tenant', { ONCEFLEET_TOKENS: 'a:0123456789abcdef,a:fedcba9876543210' }, undefined],
    ['any origin with tokens', { ONCEFLEET_TOKENS: 'a:0123456789abcdef', ONCEFLEET_CORS_ORIGINS: '*' }, undefined],
    ['named origins', { ONCEFLEET_CORS_ORIGINS: 'https://a.example, http://localhost:5173' }, undefined],
  ])('with %s', (_what, env, expected) => {
    expect(problem(env)).toEqual(expected);
  });
});

describe('the web process without tokens', () => {
  const start = async (config: object) => {
    const added: (() => unknown)[] = [];
    const lifecycle = { add: async (_name: string, close: () => unknown) => void added.push(close) };
    const settings = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 65_536, port: 0 };
    try {
      return await startWeb(harness.fleet, { ...settings, ...config } as never, silentLogger(), lifecycle as never);
    } finally {
      await Promise.all(added.map((close) => close()));
    }
  };

  it.each(['0.0.0.0', '::', '10.0.0.1', 'tools.internal', '127.0.0.1.example'])(
    'does not listen on %s',
    async (host) => {
      await expect(start({ host, allowAnyone: false })).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        issues: [{ path: 'HOST', message: expect.stringContaining('ONCEFLEET_ALLOW_ANYONE') }],
      });
    },
  );

  it('listens there if that was asked for, or with tokens', async () => {
    expect(await start({ host: '0.0.0.0', allowAnyone: true })).toMatch(/^http:/);
    expect(await start({ host: '0.0.0.0', allowAnyone: false, tokens })).toMatch(/^http:/);
    expect(await start({ host: 'localhost', allowAnyone: false })).toMatch(/^http:/);
  });
});
