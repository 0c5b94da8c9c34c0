/** Postgres with TLS: certificates that are checked, on both sides. */
import { execFile } from 'node:child_process';
import { copyFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { createFleet } from '../../src/index.ts';
import { createDatabase, execute } from '../../src/testing/services/databases.ts';
import { dataFolder, serviceIdentity } from '../../src/testing/services/place.ts';
import { type Authority, type Certificate, createAuthority } from '../helpers/certificates.ts';
import { createLedger, startLoad } from '../helpers/load.ts';
import { findProgram } from '../helpers/pgbouncer.ts';
import { type PrivatePostgres, startTestPostgres, testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const OPENSSL = findProgram('openssl');
let authority: Authority;
let client: Certificate;
let server: Awaited<ReturnType<typeof startTestPostgres>>;

beforeAll(async () => {
  if (OPENSSL === undefined) return;
  server = await startTestPostgres();
  authority = await createAuthority();
  // Postgres compares it with the name of the user.
  client = await authority.sign(decodeURIComponent(new URL(server.postgres.url).username));
  const own = await authority.sign('server', 'IP:127.0.0.1');
  await createDatabase(server.postgres.url, 'fleet');
  await requireTls(server.postgres, own);
});
afterAll(() => server?.stop());

/** From now on it takes connections with TLS alone, of clients whose certificate is the authority's. */
async function requireTls(postgres: PrivatePostgres, own: Certificate): Promise<void> {
  const data = dataFolder(dirname(postgres.logFile));
  for (const [file, name] of [
    [own.certFile, 'server.crt'],
    [own.keyFile, 'server.key'],
    [authority.caFile, 'root.crt'],
  ] as const)
    await copyFile(file, join(data, name));
  await writeFile(join(data, 'pg_hba.conf'), 'hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n');
  const identity = serviceIdentity();
  const files = ['server.crt', 'server.key', 'root.crt', 'pg_hba.conf'].map((name) => join(data, name));
  if (identity !== undefined) await promisify(execFile)('chown', [`${identity.uid}:${identity.gid}`, ...files]);
  await execute(postgres.url, "alter system set ssl_ca_file = 'root.crt'");
  await execute(postgres.url, 'alter system set ssl = on');
  await postgres.stop('SIGINT');
  await postgres.start();
}

function urlOf(parameters: Record<string, string>, host = '127.0.0.1'): string {
  const url = new URL(server.postgres.url);
  url.pathname = '/fleet';
  url.hostname = host;
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url.href;
}

describe.skipIf(OPENSSL === undefined)('Postgres with TLS', () => {
  it('is used with an authority and a certificate of one’s own, by the lease thread too', async () => {
    const url = urlOf({
      sslmode: 'verify-full',
      sslrootcert: authority.caFile,
      sslcert: client.certFile,
      sslkey: client.keyFile,
    });
    const { kysely, close } = createDb({ url, maxConnections: 2, applicationName: 'test', onError: () => undefined });
    onTestFinished(() => close());
    await migrate(kysely);
    await createLedger(kysely);
    const load = await startLoad({ databaseUrl: url, redisUrl: testRedisUrl() });
    await load.ends(10);
    await load.settle(kysely);
    const { rows } = await execute(
      url,
      'select distinct ssl from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null',
    );
    expect(rows).toEqual([{ ssl: true }]);
  });

  it.each<[string, () => Promise<string>, RegExp]>([
    ['no TLS', async () => urlOf({ sslmode: 'disable' }), /no encryption|pg_hba/],
    [
      'an authority that did not sign it',
      async () => {
        const other = await createAuthority();
        return urlOf({
          sslmode: 'verify-full',
          sslrootcert: other.caFile,
          sslcert: client.certFile,
          sslkey: client.keyFile,
        });
      },
      /certificate/,
    ],
    [
      'another name than its certificate’s',
      async () =>
        urlOf(
          {
            sslmode: 'verify-full',
            sslrootcert: authority.caFile,
            sslcert: client.certFile,
            sslkey: client.keyFile,
          },
          'localhost',
        ),
      /altnames|does not match/,
    ],
    [
      'a client without a certificate',
      async () => urlOf({ sslmode: 'verify-full', sslrootcert: authority.caFile }),
      /certificate/,
    ],
  ])('is refused, with its reason, by %s', async (_name, url, reason) => {
    const fleet = createFleet({
      databaseUrl: await url(),
      redisUrl: testRedisUrl(),
      prefix: uniquePrefix(),
      jobs: [],
    });
    onTestFinished(() => fleet.close());
    await expect(fleet.get('01900000-0000-7000-8000-000000000000')).rejects.toThrow(reason);
  });

  it('files that cannot be read are refused before anything starts, by the name of the setting', async () => {
    const databaseUrl = urlOf({ sslmode: 'verify-full', sslrootcert: '/none.pem' });
    const make = () => createFleet({ databaseUrl, redisUrl: testRedisUrl(), prefix: uniquePrefix(), jobs: [] });
    expect(make).toThrow('databaseUrl: sslrootcert: /none.pem cannot be read (ENOENT)');
  });
});
