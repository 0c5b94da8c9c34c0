/**
 * What a Redis URL says, as options of ioredis:
 *
 *   redis://user:password@host:6379/0            one server; rediss:// with TLS
 *   redis+sentinel://user:password@host:26379,host:26379/name/0     the primary that Sentinels know by that name
 *
 * Parameters have the names of libpq, so that Postgres and Redis are told alike: `sslrootcert` (the authority that
 * signed the server's certificate), `sslcert` and `sslkey` (a certificate of our own), each the path of a PEM file.
 * Sentinels that have a user of their own: `sentinel_username`, `sentinel_password`. `family` is 4, 6 or 0 (both),
 * `db` another way to say the number of the database.
 */
import { readFileSync } from 'node:fs';
import type { RedisOptions } from 'ioredis';

const SENTINEL_PORT = 26_379;
const REDIS_PORT = 6_379;
const MAX_DATABASE = 1_000_000;
const FILES = { sslrootcert: 'ca', sslcert: 'cert', sslkey: 'key' } as const;
const SENTINEL_USER = { sentinel_username: 'sentinelUsername', sentinel_password: 'sentinelPassword' } as const;

/** Scheme, user, password, hosts, path, parameters. Not `URL`, which knows one host alone. */
const PARTS = /^(rediss?)(\+sentinel)?:\/\/(?:([^:@/?#]*)(?::([^@/?#]*))?@)?([^@/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i;

/** Of ioredis. */
type NodeOptions = Pick<RedisOptions, 'username' | 'password' | 'family' | 'tls'>;
type SentinelOptions = Pick<
  RedisOptions,
  'name' | 'sentinels' | 'sentinelUsername' | 'sentinelPassword' | 'sentinelTLS' | 'enableTLSForSentinelMode'
>;

export interface RedisAddress {
  /** Of a connection: those below, and the number of a database. */
  options: NodeOptions & SentinelOptions & Pick<RedisOptions, 'host' | 'port' | 'db'>;
  /** Where the server is; absent where that is the Sentinels' to tell. */
  server?: { host: string; port: number };
  /** How to log in, also to the other nodes of a Cluster. */
  node: NodeOptions;
}

/** @throws Error what is wrong with the URL, without its password */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme = '', sentinel, user, password = '', hosts = '', path = '', query = ''] = PARTS.exec(url) ?? [];
  if (scheme === '') throw new Error('expected a URL that starts with redis://, rediss:// or redis+sentinel://');
  const parameters = new URLSearchParams(query);
  const tls = scheme.toLowerCase() === 'rediss';
  const node: NodeOptions = {
    ...(user === undefined || user === '' ? {} : { username: decodePart(user, 'user') }),
    ...(password === '' ? {} : { password: decodePart(password, 'password') }),
    ...familyOf(parameters),
    ...readTls(tls, parameters),
  };
  if (sentinel === undefined) {
    if (hosts === '' && user !== undefined) throw new Error('expected a host behind the user');
    if (hosts.includes(',')) throw new Error('expected one host; several are for redis+sentinel://');
    const server = parseHost(hosts, REDIS_PORT);
    return { options: { ...server, ...databaseOf(path || parameters.get('db') || ''), ...node }, server, node };
  }
  const [name = '', database = '', ...rest] = path.split('/');
  if (name === '' || rest.length > 0)
    throw new Error('expected the name that the Sentinels know the primary by, as in redis+sentinel://host:26379/name');
  return {
    options: {
      ...node,
      ...databaseOf(database || parameters.get('db') || ''),
      ...sentinelUser(parameters),
      name: decodePart(name, 'name'),
      sentinels: hosts.split(',').map((host) => parseHost(host, SENTINEL_PORT)),
      ...(node.tls === undefined ? {} : { sentinelTLS: node.tls, enableTLSForSentinelMode: true }),
    },
    node,
  };
}

function decodePart(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Error(`the ${what} is not percent-encoded as URLs are`);
  }
}

function parseHost(text: string, defaultPort: number): { host: string; port: number } {
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-f:.%]+)\]|([^:[\]\s]*))(?::(\d{1,5}))?$/i.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = digits === undefined ? defaultPort : Number(digits);
  if (host === undefined || port > 65_535 || port === 0) throw new Error('expected host:port, commas between');
  return { host: host === '' ? '127.0.0.1' : host, port };
}

function databaseOf(path: string): { db?: number } {
  if (path === '') return {};
  const db = /^\d{1,7}$/.test(path) ? Number(path) : Number.NaN;
  if (!(db <= MAX_DATABASE)) throw new Error('expected the number of a database after the last slash');
  return { db };
}

function familyOf(parameters: URLSearchParams): { family?: number } {
  const family = parameters.get('family');
  if (family === null) return {};
  if (!/^[046]$/.test(family)) throw new Error('family: expected 0, 4 or 6');
  return { family: Number(family) };
}

function readTls(tls: boolean, parameters: URLSearchParams): Pick<NodeOptions, 'tls'> {
  const given = Object.entries(FILES).flatMap(([parameter, option]) => {
    const path = parameters.get(parameter);
    return path === null ? [] : [[parameter, option, path] as const];
  });
  if (!tls && given.length > 0) throw new Error(`${given[0]?.[0]} is for TLS: the URL starts with rediss`);
  if (parameters.has('sslcert') !== parameters.has('sslkey')) throw new Error('expected both sslcert and sslkey');
  if (!tls) return {};
  return { tls: Object.fromEntries(given.map(([parameter, option, path]) => [option, readPem(parameter, path)])) };
}

/** @throws Error it cannot be read */
export function readPem(parameter: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`${parameter}: ${path} cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}

function sentinelUser(parameters: URLSearchParams): SentinelOptions {
  return Object.fromEntries(
    Object.entries(SENTINEL_USER).flatMap(([parameter, option]) => {
      const value = parameters.get(parameter);
      return value === null ? [] : [[option, value]];
    }),
  );
}
