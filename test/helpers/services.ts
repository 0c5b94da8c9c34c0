/** The servers of a test run, started once by test/global-setup.ts. */
import { mkdir, mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { expect, inject, vi } from 'vitest';
import { startServices } from '../../scripts/services.ts';
import { createDatabase, dropDatabase, uniqueName } from '../../src/testing/services/databases.ts';
import { findFreePort } from '../../src/testing/services/ports.ts';
import type { PrivatePostgres } from '../../src/testing/services/postgres.ts';
import { PrivateRedis } from '../../src/testing/services/redis.ts';

export type { PrivatePostgres };
export { PrivateRedis };

export interface TestDatabase {
  url: string;
  /** Also while connections are open. */
  drop(): Promise<void>;
}

/** A fresh database with every migration applied; one a file. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const { serverUrl, poolerUrl, template, run } = inject('services');
  const database = await createOn(serverUrl, uniqueName(run), template);
  if (poolerUrl === undefined) return database;
  return { ...database, url: Object.assign(new URL(poolerUrl), { pathname: new URL(database.url).pathname }).href };
}

/** A database without a single table, for tests of migrations. */
export async function createEmptyDatabase(): Promise<TestDatabase> {
  const { serverUrl, run } = inject('services');
  return createOn(serverUrl, uniqueName(run));
}

async function createOn(serverUrl: string, name: string, template?: string): Promise<TestDatabase> {
  const url = await createDatabase(serverUrl, name, template);
  return { url, drop: () => dropDatabase(serverUrl, name) };
}

/** The run's Redis, which other files use at the same time: no FLUSHALL, and a `uniquePrefix()` for every key. */
export function testRedisUrl(): string {
  return inject('services').redisUrl;
}

/** Prefix of the Redis keys and channels of one fleet; what is under it is removed after the run. */
export function uniquePrefix(): string {
  return uniqueName(inject('services').run);
}

/** A Postgres of the caller's own, without any table, to stop and to `start()` again. Call `stop()` at the end. */
export async function startTestPostgres(): Promise<{ postgres: PrivatePostgres; stop(): Promise<void> }> {
  const services = await startServices({ kind: 'test', durable: false, redisUrl: testRedisUrl() });
  return { postgres: services.postgres as PrivatePostgres, stop: services.stop };
}

/** A Redis of the caller's own, to flush, to stop and to `start()` again. Call `stop()` at the end. */
export async function startTestRedis(): Promise<{ redis: PrivateRedis; stop(): Promise<void> }> {
  const services = await startServices({ kind: 'test', databaseUrl: inject('services').serverUrl });
  return { redis: services.redis as PrivateRedis, stop: services.stop };
}

/**
 * A Redis Cluster of the caller's own: three nodes, a third of the slots each. Call `stop()` at the end.
 *
 * @param replicas whether each of them has one, the nodes 3 to 5
 */
export async function startTestRedisCluster({
  replicas = false,
}: {
  replicas?: boolean;
} = {}): Promise<{ nodes: PrivateRedis[]; url: string; stop(): Promise<void> }> {
  const folder = await createTestFolder();
  const password = 'cluster';
  const nodes: PrivateRedis[] = [];
  const clients: Redis[] = [];
  const stop = async () => {
    for (const client of clients) client.disconnect();
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    const busPorts: number[] = [];
    const count = replicas ? 6 : 3;
    for (let i = 0; i < count; i++) {
      const busPort = await findFreePort();
      busPorts.push(busPort);
      const home = join(folder, `node-${i}`);
      await mkdir(home);
      const node = await PrivateRedis.start({
        folder: home,
        identity: undefined,
        install: false,
        cluster: { busPort, password },
        config: [`masterauth ${password}`],
        say: () => undefined,
      });
      nodes.push(node);
      clients.push(new Redis(node.url));
    }
    const [first] = clients as [Redis];
    for (const [i, client] of clients.entries()) {
      await client.cluster('SET-CONFIG-EPOCH', i + 1);
      if (i < 3)
        await client.call(
          'CLUSTER',
          'ADDSLOTSRANGE',
          Math.ceil((16_384 * i) / 3),
          Math.ceil((16_384 * (i + 1)) / 3) - 1,
        );
      const { port } = new URL((nodes[i] as PrivateRedis).url);
      if (i > 0) await first.call('CLUSTER', 'MEET', '127.0.0.1', port, busPorts[i] as number);
    }
    await vi.waitFor(
      async () => {
        for (const client of clients) {
          const info = await client.cluster('INFO');
          expect(info).toContain('cluster_state:ok');
          expect(info).toContain(`cluster_known_nodes:${count}`);
        }
      },
      { timeout: 20_000, interval: 50 },
    );
    for (const [i, client] of clients.entries()) {
      if (i < 3) continue;
      await client.cluster('REPLICATE', (await clients[i - 3]?.call('CLUSTER', 'MYID')) as string);
      await vi.waitFor(async () => expect(await client.info('replication')).toContain('master_link_status:up'), {
        timeout: 20_000,
        interval: 50,
      });
    }
  } catch (error) {
    await stop();
    throw error;
  }
  for (const client of clients) client.disconnect();
  return { nodes, url: (nodes[0] as PrivateRedis).url, stop };
}

/** An empty folder under the temp folder; it goes with the run. */
export function createTestFolder(): Promise<string> {
  return mkdtemp(join(inject('services').folder, 'folder-'));
}
