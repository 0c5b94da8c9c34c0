/** Postgres that fails over to its replica under load, behind one address as poolers and proxies give it. */
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { defineJob } from '../../src/index.ts';
import { createDatabase, execute } from '../../src/testing/services/databases.ts';
import { proxied } from '../helpers/doomed.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { createLedger, startLoad } from '../helpers/load.ts';
import { startReplica, waitForReplica } from '../helpers/replica.ts';
import { startTestPostgres, testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const WAIT = { timeout: 60_000, interval: 50 };

/** A primary with a database of ours, its replica, and the proxy by which everybody reaches the one that is in charge. */
async function stage() {
  const { postgres: primary, stop } = await startTestPostgres();
  onTestFinished(() => stop());
  await createDatabase(primary.url, 'fleet');
  const inDatabase = (url: string) => Object.assign(new URL(url), { pathname: '/fleet' }).href;
  const open = (url: string) => {
    const db = createDb({ url, maxConnections: 2, applicationName: 'test', onError: () => undefined });
    onTestFinished(() => db.close());
    return db.kysely;
  };
  const own = open(inDatabase(primary.url));
  await migrate(own);
  await createLedger(own);
  // What the replica follows by, so that it can fall behind.
  const wire = await proxied(primary.url);
  const replica = await startReplica(primary, wire.url);
  onTestFinished(() => replica.stop());
  const streaming = async () =>
    (await execute(primary.url, 'select state, pg_current_wal_lsn() = replay_lsn as level from pg_stat_replication'))
      .rows;
  await expect.poll(streaming, WAIT).toEqual([{ state: 'streaming', level: true }]);
  const { proxy, url } = await proxied(primary.url);
  return {
    primary,
    replica,
    wire: wire.proxy,
    url: inDatabase(url),
    /** The primary dies; its replica takes its place behind the address. */
    async failOver() {
      await primary.stop('SIGQUIT');
      proxy.set({ kind: 'cut' });
      await execute(replica.url, 'select pg_promote()');
      const { hostname, port } = new URL(replica.url);
      proxy.leadTo({ host: hostname, port: Number(port) });
      proxy.set({ kind: 'open' });
      return open(inDatabase(replica.url));
    },
  };
}

it('a primary that dies under load loses nothing that it confirmed, where commits wait for the replica', {
  timeout: 240_000,
}, async () => {
  const s = await stage();
  await waitForReplica(s.primary);
  const load = await startLoad({ databaseUrl: s.url, redisUrl: testRedisUrl() });
  await load.ends(20);
  const db = await s.failOver();
  await load.ends(20);
  await load.settle(db);
});

it('what an asynchronous replica had not got is found by the doctor, and can be enqueued again', {
  timeout: 240_000,
}, async () => {
  const s = await stage();
  const job = defineJob({ name: 'kept', input: z.object({ n: z.number() }), run: async ({ n }) => n });
  const prefix = uniquePrefix();
  const fleet = createTestFleet(s.url, [job], { prefix });
  const kept = await fleet.enqueue(job, { n: 1 }, { key: 'kept' });
  const level = async () =>
    (await execute(s.primary.url, 'select pg_current_wal_lsn() = replay_lsn as level from pg_stat_replication')).rows;
  await expect.poll(level, WAIT).toEqual([{ level: true }]);
  s.wire.set({ kind: 'hold' });
  const lost = await fleet.enqueue(job, { n: 2 }, { key: 'lost' });
  await s.failOver();
  await expect.poll(() => fleet.get(kept.id).catch(() => undefined), WAIT).toMatchObject({ status: 'pending' });
  expect(await fleet.get(lost.id)).toBeUndefined();
  const { findings } = await fleet.doctor({ lookAgainMs: 50 });
  const found = findings.find(({ kind }) => kind === 'without-row');
  expect(found?.jobs.map(({ id }) => id)).toEqual([lost.id]);
  await fleet.work();
  expect(await kept.result({ timeoutMs: 60_000 })).toBe(1);
  const again = await fleet.enqueue(job, { n: 2 }, { key: 'lost' });
  expect(again.outcome).toBe('created');
  expect(await again.result({ timeoutMs: 60_000 })).toBe(2);
});
