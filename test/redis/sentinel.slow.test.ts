/** Redis behind Sentinels: a primary that dies under load, and the replica that takes its place. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { beforeEach, expect, it, onTestFinished } from 'vitest';
import { Child } from '../../src/testing/services/child.ts';
import { findFreePort } from '../../src/testing/services/ports.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createLedger, startLoad } from '../helpers/load.ts';
import { findProgram } from '../helpers/pgbouncer.ts';
import { createTestFolder, PrivateRedis } from '../helpers/services.ts';

const file = useDatabase();
const PASSWORD = 'all-of-them';
const WAIT = { timeout: 60_000, interval: 50 };

interface Sentinels {
  url: string;
  primary: PrivateRedis;
  replica: PrivateRedis;
  sentinels: Child[];
}

/** A primary, its replica, and three Sentinels of which two decide; ended with the test. */
async function startSentinels(): Promise<Sentinels> {
  const folder = await createTestFolder();
  const startRedis = async (name: string, config: readonly string[]) => {
    const redis = await PrivateRedis.start({
      folder: join(folder, name),
      identity: undefined,
      install: false,
      password: PASSWORD,
      config: [`masterauth ${PASSWORD}`, ...config],
      say: () => undefined,
    });
    onTestFinished(() => redis.stop());
    return redis;
  };
  const primary = await startRedis('primary', []);
  const { port } = new URL(primary.url);
  const replica = await startRedis('replica', [`replicaof 127.0.0.1 ${port}`]);
  const ports: number[] = [];
  const sentinels: Child[] = [];
  for (let i = 0; i < 3; i++) {
    const sentinelPort = await findFreePort();
    const config = join(folder, `sentinel-${i}.conf`);
    await writeFile(
      config,
      [
        'bind 127.0.0.1',
        `port ${sentinelPort}`,
        `dir ${folder}`,
        `sentinel monitor main 127.0.0.1 ${port} 2`,
        `sentinel auth-pass main ${PASSWORD}`,
        'sentinel down-after-milliseconds main 1000',
        'sentinel failover-timeout main 5000',
        '',
      ].join('\n'),
    );
    const sentinel = await Child.start(findProgram('redis-server') as string, [config, '--sentinel'], {
      logFile: join(folder, `sentinel-${i}.log`),
      cwd: folder,
      stopSignal: 'SIGKILL',
      graceMs: 1_000,
    });
    onTestFinished(() => void sentinel.stop());
    ports.push(sentinelPort);
    sentinels.push(sentinel);
  }
  const [asked] = ports as [number];
  const client = new Redis({ host: '127.0.0.1', port: asked });
  client.on('error', () => undefined);
  onTestFinished(() => client.disconnect());
  // They have found each other and the replica.
  await expect
    .poll(async () => {
      const state = (await client.call('SENTINEL', 'MASTER', 'main').catch(() => [])) as string[];
      const field = (name: string) => state[state.indexOf(name) + 1];
      return [field('flags'), field('num-slaves'), field('num-other-sentinels')];
    }, WAIT)
    .toEqual(['master', '1', '2']);
  const hosts = ports.map((each) => `127.0.0.1:${each}`).join(',');
  return { url: `redis+sentinel://:${PASSWORD}@${hosts}/main`, primary, replica, sentinels };
}

beforeEach(async () => {
  await createLedger(file.db);
  return () => file.db.schema.dropTable('public.ledger').execute();
});

it('a primary that is killed under load loses no job and no event: its replica is found', {
  timeout: 240_000,
}, async () => {
  const { url, primary, replica } = await startSentinels();
  const load = await startLoad({ databaseUrl: file.url, redisUrl: url });
  await load.ends(10);
  await primary.stop('SIGKILL');
  await load.ends(10);
  const client = new Redis(replica.url);
  onTestFinished(() => client.disconnect());
  await expect.poll(async () => ((await client.call('ROLE')) as unknown[])[0], WAIT).toBe('master');
  await load.ends(20);
  // The old primary comes back as a replica of the new one.
  await primary.start();
  await load.ends(10);
  await load.settle(file.db);
});

it('starts where the first Sentinel of the list is down', { timeout: 120_000 }, async () => {
  const { url, sentinels } = await startSentinels();
  await sentinels[0]?.stop();
  const load = await startLoad({ databaseUrl: file.url, redisUrl: url });
  await load.ends(5);
  await load.settle(file.db);
});
