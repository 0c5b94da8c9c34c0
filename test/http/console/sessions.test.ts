/** Sessions of the console: what ends with them, and who cannot make or guess one. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gate, type Harness, startHarness } from '../harness.ts';
import { inject, listenLocally } from '../requests.ts';

const ADMIN = 'admin-token-0123456789';
const ACME = 'token-of-tenant-acme';

let harness: Harness;
let port: number;
beforeAll(async () => {
  harness = await startHarness();
  port = await listenLocally(another());
});
afterAll(() => harness?.close());

const another = (trustedProxies?: readonly string[]) =>
  harness.another({
    tokens: new Map([[ACME, 'acme']]),
    adminToken: ADMIN,
    ...(trustedProxies === undefined ? {} : { trustedProxies }),
  });

const logIn = (app: ReturnType<typeof another>, token: string, headers: Record<string, string> = {}) =>
  inject(app, {
    method: 'POST',
    url: '/login',
    payload: new URLSearchParams({ token }).toString(),
    headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'text/html', ...headers },
  });
const cookieIn = ({ headers }: { headers: Record<string, unknown> }) =>
  String(headers['set-cookie']).split(';', 1)[0] as string;

describe('a stream that a page follows', { timeout: 120_000 }, () => {
  it.each<[string, (cookie: string, token: { id: string }) => Promise<unknown>]>([
    [
      'a logout in another process',
      (cookie) => inject(another(), { method: 'POST', url: '/logout', headers: { cookie, accept: 'text/html' } }),
    ],
    ['the end of the token that opened the session', (_cookie, { id }) => harness.fleet.tokens.revoke(id)],
  ])('ends with %s', async (what, end) => {
    const made = await harness.fleet.tokens.create({ name: what.slice(0, 20), scopes: ['read'], tenant: 'acme' });
    const cookie = cookieIn(await logIn(another(), made.token));
    const { id } = await harness.fleet.enqueue('stepper', { gate: what, steps: 1 }, { tenant: 'acme' });
    const response = await fetch(`http://127.0.0.1:${port}/console/jobs/${id}/events`, { headers: { cookie } });
    expect(response.status).toBe(200);
    const read = response.text().then(
      () => 'ended as if it were complete',
      () => 'cut off',
    );
    await end(cookie, await tokenNamed(what.slice(0, 20)));
    // Not by the job, which still waits.
    expect(await read).toBe('cut off');
    gate.open(what);
  });
});

async function tokenNamed(name: string): Promise<{ id: string }> {
  const found = (await harness.fleet.tokens.list()).find((token) => token.name === name);
  if (found === undefined) throw new Error(`no token ${name}`);
  return found;
}

it('a login takes no session that somebody else has chosen', async () => {
  const app = another();
  const planted = `oncefleet_session=ofs_${'A'.repeat(43)}`;
  const own = cookieIn(await logIn(app, ADMIN, { cookie: planted }));
  expect(own).not.toBe(planted);
  const earlier = cookieIn(await logIn(app, ACME));
  expect(cookieIn(await logIn(app, ADMIN, { cookie: earlier }))).not.toBe(earlier);
  const shown = async (cookie: string) =>
    (await inject(app, { url: '/', headers: { cookie, accept: 'text/html' } })).statusCode;
  expect([await shown(own), await shown(planted)]).toEqual([200, 303]);
});

describe('wrong tokens', () => {
  const wrong = (app: ReturnType<typeof another>, from: string) =>
    logIn(app, 'wrong-token-0123456789', { 'x-forwarded-for': from });

  it('shut out the address that a trusted proxy names, and no other', async () => {
    const app = another(['127.0.0.1']);
    for (let n = 0; n < 10; n++) expect((await wrong(app, '192.0.2.1')).statusCode).toBe(401);
    expect((await wrong(app, '192.0.2.1')).statusCode).toBe(429);
    // Whatever it claims to have come through.
    expect((await wrong(app, '198.51.100.7, 192.0.2.1')).statusCode).toBe(429);
    expect((await wrong(app, '192.0.2.2')).statusCode).toBe(401);
  });

  it('shut out whoever sends them, whatever addresses it makes up, where no proxy is trusted', async () => {
    const app = another();
    for (let n = 0; n < 10; n++) expect((await wrong(app, `192.0.2.${n}`)).statusCode).toBe(401);
    expect((await wrong(app, '192.0.2.100')).statusCode).toBe(429);
  });
});
