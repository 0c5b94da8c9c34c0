/** A Redis Cluster whose primaries have replicas: one of them dies under load. */
import { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished } from 'vitest';
import { queuePrefix } from '../../src/redis/connections.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createLedger, startLoad } from '../helpers/load.ts';
import { startTestRedisCluster, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
let cluster: Awaited<ReturnType<typeof startTestRedisCluster>>;
beforeAll(async () => {
  cluster = await startTestRedisCluster({ replicas: true });
}, 120_000);
afterAll(() => cluster?.stop());

beforeEach(async () => {
  await createLedger(file.db);
  return () => file.db.schema.dropTable('public.ledger').execute();
});

it('the primary that has the queue is killed under load: its replica goes on, and nothing is lost', {
  timeout: 240_000,
}, async () => {
  const prefix = uniquePrefix();
  const load = await startLoad({ databaseUrl: file.url, redisUrl: cluster.url, redisCluster: true, prefix });
  await load.ends(10);
  const asked = new Redis(cluster.nodes[0]?.url as string);
  const slot = Number(await asked.call('CLUSTER', 'KEYSLOT', queuePrefix(prefix, 'ledger', true)));
  asked.disconnect();
  const owner = Math.floor((slot * 3) / 16_384);
  await cluster.nodes[owner]?.stop('SIGKILL');
  await load.ends(20);
  const replica = new Redis(cluster.nodes[owner + 3]?.url as string);
  onTestFinished(() => replica.disconnect());
  expect(((await replica.call('ROLE')) as unknown[])[0]).toBe('master');
  await load.settle(file.db);
});
