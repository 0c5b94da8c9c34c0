import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseRedisUrl } from '../src/redis-url.ts';
import { createTestFolder } from './helpers/services.ts';

describe('a Redis URL', () => {
  it.each([
    ['redis://cache', { host: 'cache', port: 6379 }],
    ['redis://', { host: '127.0.0.1', port: 6379 }],
    ['redis://[::1]:7000/3', { host: '::1', port: 7000, db: 3 }],
    ['redis://cache?db=9&family=0', { host: 'cache', port: 6379, db: 9, family: 0 }],
    ['redis://:p%40ss@cache', { host: 'cache', port: 6379, password: 'p@ss' }],
    ['redis://me:p%3Aq@cache:1', { host: 'cache', port: 1, username: 'me', password: 'p:q' }],
    ['rediss://cache', { host: 'cache', port: 6379, tls: {} }],
    ['redis+sentinel://a,b:5/main', { name: 'main', sentinels: [at('a', 26379), at('b', 5)] }],
    [
      'redis+sentinel://me:pw@[::1]:5/my%20main/2?sentinel_password=x%26y&sentinel_username=z',
      {
        name: 'my main',
        sentinels: [at('::1', 5)],
        db: 2,
        username: 'me',
        password: 'pw',
        sentinelUsername: 'z',
        sentinelPassword: 'x&y',
      },
    ],
    [
      'rediss+sentinel://a/main',
      { name: 'main', sentinels: [at('a', 26379)], tls: {}, sentinelTLS: {}, enableTLSForSentinelMode: true },
    ],
  ])('%s', (url, options) => {
    expect(parseRedisUrl(url).options).toEqual(options);
  });

  it('names the files of its certificates', async () => {
    const folder = await createTestFolder();
    for (const name of ['ca', 'cert', 'key']) writeFileSync(join(folder, name), name.toUpperCase());
    const query = `sslrootcert=${folder}/ca&sslcert=${folder}/cert&sslkey=${folder}/key`;
    const tls = { ca: 'CA', cert: 'CERT', key: 'KEY' };
    expect(parseRedisUrl(`rediss://cache?${query}`).node).toEqual({ tls });
    expect(parseRedisUrl(`rediss+sentinel://a/main?${query}`).options).toMatchObject({ tls, sentinelTLS: tls });
  });

  it.each([
    ['http://cache', 'expected a URL that starts with redis://, rediss:// or redis+sentinel://'],
    ['cache:6379', 'expected a URL that starts with redis://, rediss:// or redis+sentinel://'],
    ['redis://u:secret@/0', 'expected a host behind the user'],
    ['redis://a,b', 'expected one host; several are for redis+sentinel://'],
    ['redis://a:0', 'expected host:port, commas between'],
    ['redis://a:99999', 'expected host:port, commas between'],
    ['redis+sentinel://a,b c/main', 'expected host:port, commas between'],
    ['redis://a/one', 'expected the number of a database after the last slash'],
    ['redis://a/-1', 'expected the number of a database after the last slash'],
    ['redis://a?family=5', 'family: expected 0, 4 or 6'],
    ['redis://%zz:secret@a', 'the user is not percent-encoded as URLs are'],
    ['redis://u:%zz@a', 'the password is not percent-encoded as URLs are'],
    ['redis+sentinel://a', /^expected the name that the Sentinels know the primary by/],
    ['redis+sentinel://a/main/0/1', /^expected the name that the Sentinels know the primary by/],
    ['redis://a?sslrootcert=/x', 'sslrootcert is for TLS: the URL starts with rediss'],
    ['rediss://a?sslcert=/x', 'expected both sslcert and sslkey'],
    ['rediss://u:secret@a?sslrootcert=/none.pem', 'sslrootcert: /none.pem cannot be read (ENOENT)'],
  ])('%s is refused, and its password is not repeated', (url, message) => {
    const refuse = () => parseRedisUrl(url);
    expect(refuse).toThrow(message);
    expect(refuse).not.toThrow('secret');
  });
});

function at(host: string, port: number) {
  return { host, port };
}
