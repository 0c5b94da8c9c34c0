import { expect, it } from 'vitest';
import { FRESH_MS, OUTAGE_MS, TokenCache } from '../../../src/client/access/token-cache.ts';
import { isTokenText, makeTokenText } from '../../../src/client/access/token-text.ts';
import type { FoundToken } from '../../../src/db/api-tokens.ts';

const GOOD: FoundToken = {
  id: 'a',
  kind: 'token',
  tenant: 'acme',
  name: 'n',
  scopes: ['read'],
  granted_by: null,
  granted_here: false,
  revoked: false,
  expires_in_ms: null,
  used_due: false,
};

function stage(found = GOOD) {
  const state = {
    now: 1_000_000,
    asked: 0,
    found: found as FoundToken | undefined,
    error: undefined as Error | undefined,
    uses: 0,
  };
  const cache = new TokenCache({
    now: () => state.now,
    async find() {
      state.asked++;
      if (state.error !== undefined) throw state.error;
      return state.found;
    },
    async noteUse() {
      state.uses++;
    },
    onError() {},
  });
  const text = makeTokenText('token');
  return { state, cache, text, resolve: async () => (await cache.resolve('token', text)).state };
}

it('what Postgres said of a token holds for a moment, also for requests that come together', async () => {
  const { state, resolve } = stage();
  expect(await Promise.all([resolve(), resolve(), resolve()])).toEqual(['active', 'active', 'active']);
  state.now += FRESH_MS - 1;
  await resolve();
  expect(state.asked).toBe(1);
  state.found = { ...GOOD, revoked: true };
  state.now += 1;
  expect(await resolve()).toBe('revoked');
});

it('a token that is made is accepted a moment later where it was refused before', async () => {
  const { state, resolve } = stage();
  state.found = undefined;
  expect(await resolve()).toBe('unknown');
  state.found = GOOD;
  state.now += FRESH_MS;
  expect(await resolve()).toBe('active');
});

it('a token expires between two looks at Postgres', async () => {
  const { state, resolve } = stage({ ...GOOD, expires_in_ms: 500 });
  expect(await resolve()).toBe('active');
  state.now += 500;
  expect(await resolve()).toBe('expired');
});

it('while Postgres does not answer, a known token goes on for a while, and an unknown one is not called wrong', async () => {
  const { state, cache, resolve } = stage();
  await resolve();
  state.error = new Error('gone');
  for (let at = FRESH_MS; at < OUTAGE_MS; at += 60_000) {
    state.now = 1_000_000 + at;
    expect(await resolve()).toBe('active');
  }
  await expect(cache.resolve('token', makeTokenText('token'))).rejects.toThrow('gone');
  state.now = 1_000_000 + OUTAGE_MS;
  await expect(resolve()).rejects.toThrow('gone');
});

it('while Postgres does not answer, a known token expires all the same, and a revoked one stays refused or unknown', async () => {
  const { state, resolve } = stage({ ...GOOD, expires_in_ms: 10_000 });
  await resolve();
  state.error = new Error('gone');
  state.now += 10_000;
  expect(await resolve()).toBe('expired');
  const revoked = stage({ ...GOOD, revoked: true });
  expect(await revoked.resolve()).toBe('revoked');
  revoked.state.error = new Error('gone');
  revoked.state.now += FRESH_MS;
  await expect(revoked.resolve()).rejects.toThrow('gone');
});

it('a session is no token, and a text that cannot be one is not looked up', async () => {
  const { state, cache, text } = stage({ ...GOOD, kind: 'session' });
  expect(await cache.resolve('token', text)).toEqual({ state: 'unknown' });
  for (const wrong of ['', 'ofl_', `${text}0`, text.slice(0, -1), text.toUpperCase(), makeTokenText('session')])
    expect(await cache.resolve('token', wrong)).toEqual({ state: 'unknown' });
  expect(state.asked).toBe(1);
  expect(isTokenText('session', makeTokenText('session'))).toBe(true);
});

it('a use is noted where Postgres says it is due', async () => {
  const { state, resolve } = stage({ ...GOOD, used_due: true });
  await resolve();
  await resolve();
  expect(state.uses).toBe(1);
});
