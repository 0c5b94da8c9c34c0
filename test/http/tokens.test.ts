/** API tokens in Postgres and tickets, over every route of the OpenAPI document. */
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { SCOPES, type Scope } from '../../src/db/api-tokens.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const ENV_TOKEN = 'token-of-the-settings';
/** Everything else goes by the method. */
const SCOPE_BY_ROUTE: Readonly<Record<string, Scope>> = {
  'POST /v1/cancel': 'admin',
  'POST /v1/redrive': 'admin',
  'POST /v1/jobs/{id}/redrive': 'admin',
  'POST /v1/jobs/{id}/ticket': 'read',
  'DELETE /v1/responses/{id}': 'enqueue',
};
const SCOPE_BY_METHOD: Readonly<Record<string, Scope>> = {
  GET: 'read',
  POST: 'enqueue',
  PUT: 'admin',
  PATCH: 'admin',
  DELETE: 'admin',
};

let harness: Harness;
let app: FastifyInstance;
let jobId: string;
let routes: { method: 'GET' | 'POST' | 'DELETE'; path: string; url: string; scope: Scope }[];
const tokens = new Map<string, string>();

async function make(name: string, scopes: readonly Scope[], tenant = 'acme'): Promise<string> {
  const { token } = await harness.fleet.tokens.create({ name, scopes, tenant });
  tokens.set(name, token);
  return token;
}
const tokenOf = (name: string) => tokens.get(name) as string;
const idOf = async (name: string) => (await harness.fleet.tokens.list()).find((token) => token.name === name)?.id ?? '';

beforeAll(async () => {
  harness = await startHarness();
  app = harness.another({ tokens: new Map([[ENV_TOKEN, 'acme']]) });
  await app.ready();
  const handle = await harness.fleet.enqueue('echo', { text: 'a b' }, { tenant: 'acme' });
  await handle.result();
  jobId = handle.id;
  const { paths } = (await inject(app, '/openapi.json')).json() as { paths: Record<string, Record<string, unknown>> };
  routes = Object.entries(paths)
    .filter(([path]) => /^\/(v1|api)\//.test(path))
    .flatMap(([path, methods]) =>
      Object.keys(methods).map((name) => {
        const method = name.toUpperCase() as 'GET';
        const url = path.replace('{id}', jobId).replace(/\{\w+\}/g, '0');
        const scope = SCOPE_BY_ROUTE[`${method} ${path}`] ?? SCOPE_BY_METHOD[method];
        return { method, path, url, scope: scope as Scope };
      }),
    );
  for (const scope of SCOPES) await make(scope, [scope]);
  await make('foreign', ['admin'], 'other');
  await make('revoked', ['admin']);
  await harness.fleet.tokens.revoke(await idOf('revoked'));
  await make('expired', ['admin']);
  await sql`update oncefleet.api_tokens set expires_at = clock_timestamp() - interval '1 second' where name = 'expired'`.execute(
    harness.fleet.db,
  );
});
afterAll(() => harness?.close());

async function call(
  { method, url }: { method: 'GET' | 'POST' | 'DELETE'; url: string },
  authorization?: string,
  on = app,
): Promise<LightMyRequestResponse> {
  return inject(on, { method, url, ...(authorization === undefined ? {} : { headers: { authorization } }) });
}

/** Code and words of an error, in the shape of either kind of route. */
function errorIn(answer: LightMyRequestResponse): { code?: string; detail?: string } {
  const body = answer.json() as { code?: string; detail?: string; error?: { code: string; message: string } };
  if (body.error === undefined) return body;
  const { code, message } = body.error;
  return { code: code === 'invalid_api_key' ? 'UNAUTHORIZED' : code, detail: message };
}

describe('every route of the OpenAPI document', () => {
  it.each([
    ['no token', () => undefined],
    ['one that is none', () => 'Bearer nonsense'],
    ['one of the right form', () => `Bearer ofl_${'A'.repeat(43)}000000`],
    [
      'one with a letter changed',
      () => `Bearer ${tokenOf('admin').replace(/.$/, (last) => (last === '0' ? '1' : '0'))}`,
    ],
    ['two', () => `Bearer ${tokenOf('admin')} ${tokenOf('admin')}`],
    ['an empty one', () => 'Bearer '],
    ['another scheme', () => `Basic ${Buffer.from(`a:${tokenOf('admin')}`).toString('base64')}`],
    ['one that has expired', () => `Bearer ${tokenOf('expired')}`],
    ['one that was revoked', () => `Bearer ${tokenOf('revoked')}`],
  ])('refuses %s', async (_what, header) => {
    expect(routes.length).toBeGreaterThan(14);
    for (const route of routes) {
      const answer = await call(route, header());
      const { method, path } = route;
      expect({ method, path, status: answer.statusCode, code: errorIn(answer).code }).toEqual({
        method,
        path,
        status: 401,
        code: 'UNAUTHORIZED',
      });
      expect(answer.headers['www-authenticate']).toMatch(/^Bearer /);
    }
  });

  it.each(SCOPES)('with a token of the scope %s is refused where it needs another', async (scope) => {
    for (const route of routes.filter((one) => scope !== 'admin' && one.scope !== scope)) {
      const answer = await call(route, `Bearer ${tokenOf(scope)}`);
      expect([route.method, route.path, answer.statusCode, errorIn(answer).code]).toEqual([
        route.method,
        route.path,
        403,
        'SCOPE_MISSING',
      ]);
      expect(errorIn(answer).detail).toContain(route.scope);
    }
  });

  it.each([...SCOPES, 'the settings'])('with a token of %s is answered where that is enough', async (scope) => {
    const token = scope === 'the settings' ? ENV_TOKEN : tokenOf(scope);
    for (const route of routes.filter((one) => scope === 'the settings' || scope === 'admin' || one.scope === scope)) {
      const { statusCode } = await call(route, `Bearer ${token}`);
      expect([401, 403, 500], `${route.method} ${route.path}`).not.toContain(statusCode);
    }
  });

  it('shows a token of another tenant nothing of a job', async () => {
    for (const route of routes.filter(({ path }) => path.includes('/jobs/{id}'))) {
      const answer = await call(route, `Bearer ${tokenOf('foreign')}`);
      expect([route.path, answer.statusCode, answer.json().code]).toEqual([route.path, 404, 'JOB_NOT_FOUND']);
    }
  });
});

describe('a token', () => {
  it('is in Postgres as a hash alone', async () => {
    const { rows } = await sql<{ row: string }>`select to_jsonb(t)::text as row from oncefleet.api_tokens t`.execute(
      harness.fleet.db,
    );
    for (const token of tokens.values())
      for (const { row } of rows) {
        expect(row).not.toContain(token.slice(4, 20));
        expect(row).not.toContain(Buffer.from(token).toString('hex'));
      }
  });

  it('is asked for, though the settings name none, where they say so', async () => {
    const strict = harness.another({ tokens: new Map() });
    const route = { method: 'GET', url: '/v1/jobs' } as const;
    expect((await call(route, undefined, strict)).statusCode).toBe(401);
    expect((await call(route, `Bearer ${tokenOf('read')}`, strict)).statusCode).toBe(200);
  });

  it('notes its use once a minute', async () => {
    await make('used', ['read']);
    const used = async () =>
      (await harness.fleet.tokens.list()).find(({ name }) => name === 'used')?.lastUsedAt ?? undefined;
    expect(await used()).toBeUndefined();
    await call({ method: 'GET', url: '/v1/jobs' }, `Bearer ${tokenOf('used')}`);
    await expect.poll(used).toBeDefined();
    const first = await used();
    harness.fleet.tokens.revoke('').catch(() => {}); // Empties the cache.
    await call({ method: 'GET', url: '/v1/jobs' }, `Bearer ${tokenOf('used')}`);
    expect(await used()).toBe(first);
  });

  it('that is revoked ends the streams that it has open, in every process', { timeout: 20_000 }, async () => {
    const other = await startHarnessOnSame();
    const running = await harness.fleet.enqueue('stepper', { gate: 'revoked', steps: 1 }, { tenant: 'acme' });
    const { token, id } = await harness.fleet.tokens.create({ name: 'stream', scopes: ['read'], tenant: 'acme' });
    const reader = new RawRequest(other.port, `/v1/jobs/${running.id}/events`, {
      accept: 'text/event-stream',
      authorization: `Bearer ${token}`,
    });
    await expect.poll(() => reader.status).toBe(200);
    // As another process does it: this one is not told.
    await sql`update oncefleet.api_tokens set revoked_at = clock_timestamp() where id = ${id}`.execute(
      harness.fleet.db,
    );
    await reader.closed();
    expect((await call({ method: 'GET', url: '/v1/jobs' }, `Bearer ${token}`)).statusCode).toBe(401);
    await running.cancel();
  });

  async function startHarnessOnSame(): Promise<{ port: number }> {
    return { port: await listenLocally(harness.another({ tokens: new Map() })) };
  }
});

describe('a ticket', () => {
  let ticket: string;
  const open = (query: string, id = jobId) => call({ method: 'GET', url: `/v1/jobs/${id}/events${query}` });
  beforeEach(async () => {
    const answer = await call({ method: 'POST', url: `/v1/jobs/${jobId}/ticket` }, `Bearer ${tokenOf('read')}`);
    expect(answer.statusCode).toBe(201);
    ticket = answer.json().ticket;
    expect(answer.json().events).toBe(`/v1/jobs/${jobId}/events?ticket=${ticket}`);
    expect(answer.headers['cache-control']).toBe('no-store');
  });

  it('opens its stream', async () => {
    const answer = await open(`?ticket=${ticket}`);
    expect(answer.statusCode).toBe(200);
    expect(answer.json()).toMatchObject({ finished: true });
  });

  it('opens no other stream, of its tenant or another', async () => {
    for (const tenant of ['acme', 'other']) {
      const { id } = await harness.fleet.enqueue('echo', { text: 'x' }, { tenant });
      expect((await open(`?ticket=${ticket}`, id)).json()).toMatchObject({ code: 'UNAUTHORIZED' });
    }
  });

  it('is no token, and opens nothing else', async () => {
    for (const route of routes.filter(({ path }) => path !== '/v1/jobs/{id}/events')) {
      expect((await call(route, `Bearer ${ticket}`)).statusCode).toBe(401);
      const joined = `${route.url}${route.url.includes('?') ? '&' : '?'}ticket=${ticket}`;
      expect([route.path, (await call({ ...route, url: joined })).statusCode]).toEqual([route.path, 401]);
    }
  });

  it('that was changed anywhere is refused', async () => {
    const parts = ticket.split('.');
    const changed = [
      ...parts.map((part, at) =>
        parts
          .with(
            at,
            part.replace(/^./, (c) => (c === '1' ? '2' : '1')),
          )
          .join('.'),
      ),
      parts.with(1, (Date.now() + 86_400_000).toString(36)).join('.'),
      parts.with(2, Buffer.from('other').toString('base64url')).join('.'),
      parts.slice(0, 3).join('.'),
      `${ticket}.`,
      '',
      'x'.repeat(5_000),
    ];
    for (const text of changed) expect((await open(`?ticket=${text}`)).json()).toMatchObject({ code: 'UNAUTHORIZED' });
  });

  it('ends when its time is over', async () => {
    const signed = await harness.fleet.access.tickets.sign({ tenant: 'acme', jobId, expiresAt: Date.now() - 1 });
    expect((await open(`?ticket=${signed}`)).json()).toMatchObject({
      code: 'UNAUTHORIZED',
      detail: 'The ticket has expired; make another one',
    });
  });

  it.each(['0', '9', '3601', 'x', ''])('of %j seconds is refused', async (ttl) => {
    const answer = await call({ method: 'POST', url: `/v1/jobs/${jobId}/ticket?ttl=${ttl}` }, `Bearer ${ENV_TOKEN}`);
    expect(answer.json()).toMatchObject({ status: 400, code: 'INPUT_INVALID' });
  });
});
