import type { Change } from '../../../mutation.ts';

const CACHE = 'test/client/access/token-cache.test.ts';

export default [
  {
    name: 'token-fresh',
    find: 'return this.#now() - entry.askedAt < FRESH_MS;',
    replace: 'return entry.askedAt > 0;',
    mechanism: 'what Postgres said of a token holds for a moment',
    test: CACHE,
    title: 'what Postgres said of a token holds for a moment, also for requests that come together',
  },
  {
    name: 'token-expires',
    find: "if (this.#now() >= expiresAt) return { state: 'expired' };",
    replace: '',
    mechanism: 'a token expires also between two looks at Postgres',
    test: CACHE,
    title: 'a token expires between two looks at Postgres',
  },
  {
    name: 'token-outage-bound',
    find: '!known.found.revoked && this.#now() - known.confirmedAt < OUTAGE_MS',
    replace: '!known.found.revoked',
    mechanism: 'a token that cannot be confirmed goes on for a while only',
    test: CACHE,
    title: 'while Postgres does not answer, a known token goes on for a while, and an unknown one is not called wrong',
  },
  {
    name: 'token-kind',
    find: '|| found.kind !== kind',
    replace: '',
    mechanism: 'a session is no token of the API',
    test: CACHE,
    title: 'a session is no token, and a text that cannot be one is not looked up',
  },
] satisfies readonly Change[];
