import type { Change } from '../../../mutation.ts';

const TOKENS = 'test/http/tokens.test.ts';

export default [
  {
    name: 'ticket-signed',
    find: "if (!timingSafeEqual(expected, Buffer.from(mac, 'base64url'))) return { state: 'unknown' };",
    replace: 'void expected;',
    mechanism: 'a ticket is for the stream, the tenant and the time that it was signed for',
    test: TOKENS,
    title: 'that was changed anywhere is refused',
  },
  {
    name: 'ticket-expires',
    find: "return expiresAt > this.#now() ? { state: 'active', tenant } : { state: 'expired' };",
    replace: "return { state: 'active', tenant };",
    mechanism: 'a ticket ends',
    test: TOKENS,
    title: 'ends when its time is over',
  },
] satisfies readonly Change[];
