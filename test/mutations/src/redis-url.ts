import type { Change } from '../mutation.ts';

export default [
  {
    name: 'redis-sentinels',
    find: "hosts.split(',').map((host) => parseHost(host, SENTINEL_PORT))",
    replace: "hosts.split(',').slice(0, 1).map((host) => parseHost(host, SENTINEL_PORT))",
    mechanism: 'all Sentinels of the URL are asked',
    test: 'test/redis/sentinel.slow.test.ts',
    title: 'starts where the first Sentinel of the list is down',
  },
  {
    name: 'redis-certificates',
    find: 'given.map(([parameter, option, path]) => [option, readPem(parameter, path)])',
    replace: '[]',
    mechanism: 'the certificates that a URL names are used',
    test: 'test/redis/tls.slow.test.ts',
    title: 'is used with an authority and a certificate of one’s own',
  },
] satisfies readonly Change[];
