import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redis-tls-refused',
    find: "if (typeof code === 'string' && TLS_CODE.test(code)) return TLS_REFUSAL;",
    replace: '',
    mechanism: 'a handshake that fails is a refusal',
    test: 'test/redis/tls.slow.test.ts',
    title: 'is refused, with its reason, for %s',
  },
] satisfies readonly Change[];
