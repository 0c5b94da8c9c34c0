/** Redis with TLS: certificates that are checked, on both sides. */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createFleet, defineJob } from '../../src/index.ts';
import { findFreePort } from '../../src/testing/services/ports.ts';
import { type Authority, type Certificate, createAuthority } from '../helpers/certificates.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createLedger, startLoad } from '../helpers/load.ts';
import { findProgram } from '../helpers/pgbouncer.ts';
import { createTestFolder, PrivateRedis, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
let authority: Authority;
let client: Certificate;
let redis: PrivateRedis;
let port: number;

beforeAll(async () => {
  authority = await createAuthority();
  const server = await authority.sign('server', 'IP:127.0.0.1');
  client = await authority.sign('client');
  port = await findFreePort();
  redis = await PrivateRedis.start({
    folder: await createTestFolder(),
    identity: undefined,
    install: false,
    config: [
      `tls-port ${port}`,
      `tls-cert-file ${server.certFile}`,
      `tls-key-file ${server.keyFile}`,
      `tls-ca-cert-file ${authority.caFile}`,
      'tls-auth-clients yes',
    ],
    say: () => undefined,
  });
});
afterAll(() => redis?.stop());

beforeEach(async () => {
  await createLedger(file.db);
  return () => file.db.schema.dropTable('public.ledger').execute();
});

const urlOf = (parameters: Record<string, string>, host = '127.0.0.1') =>
  `rediss://:${new URL(redis.url).password}@${host}:${port}?${new URLSearchParams(parameters)}`;

describe.skipIf(findProgram('openssl') === undefined)('Redis with TLS', () => {
  it('is used with an authority and a certificate of one’s own', async () => {
    const redisUrl = urlOf({ sslrootcert: authority.caFile, sslcert: client.certFile, sslkey: client.keyFile });
    const load = await startLoad({ databaseUrl: file.url, redisUrl });
    await load.ends(10);
    await load.settle(file.db);
  });

  it.each<[string, () => Promise<string>, RegExp]>([
    [
      'an authority that is not known',
      async () => urlOf({ sslcert: client.certFile, sslkey: client.keyFile }),
      /certificate|self-signed/i,
    ],
    [
      'an authority that did not sign it',
      async () => {
        const other = await createAuthority();
        return urlOf({ sslrootcert: other.caFile, sslcert: client.certFile, sslkey: client.keyFile });
      },
      /certificate/i,
    ],
    [
      'another name than its certificate’s',
      async () =>
        urlOf({ sslrootcert: authority.caFile, sslcert: client.certFile, sslkey: client.keyFile }, 'localhost'),
      /altnames|does not match/i,
    ],
  ])('is refused, with its reason, for %s', async (_name, url, reason) => {
    const fleet = createFleet({ databaseUrl: file.url, redisUrl: await url(), prefix: uniquePrefix(), jobs: [] });
    onTestFinished(() => fleet.close());
    const refused = await fleet.work().then(
      () => undefined,
      (error: unknown) => error as Error,
    );
    expect(refused).toMatchObject({ code: 'REDIS_UNUSABLE' });
    expect(refused?.message).toMatch(reason);
  });

  // Its last word may be lost with the connection, so it looks as if it was unreachable.
  it('takes no client without a certificate: jobs wait', async () => {
    const redisUrl = urlOf({ sslrootcert: authority.caFile });
    const job = defineJob({ name: 'waits', input: z.object({}), run: async () => null });
    const fleet = createFleet({ databaseUrl: file.url, redisUrl, prefix: uniquePrefix(), jobs: [job] });
    onTestFinished(() => fleet.close());
    const { id } = await fleet.enqueue(job, {});
    expect(await fleet.get(id)).toMatchObject({ status: 'pending' });
    expect((await fleet.health()).redis).toEqual(expect.any(String));
  });
});
