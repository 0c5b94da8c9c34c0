/** `/readyz` of a process whose servers answer and take no writes. */
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { startTestPostgres, startTestRedis } from '../helpers/services.ts';
import { type Harness, startHarness } from './harness.ts';

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function ready(harness: Harness): Promise<Record<string, unknown>> {
  const response = await fetch(harness.url('/readyz'));
  return { http: response.status, ...((await response.json()) as Record<string, unknown>) };
}

async function ownPostgres(): Promise<{ harness: Harness; url: string }> {
  const { postgres, stop } = await startTestPostgres();
  stops.push(stop);
  const db = createDb({ url: postgres.url, maxConnections: 2, applicationName: 'test', onError: () => {} });
  await migrate(db.kysely);
  await db.close();
  const harness = await startHarness({ databaseUrl: postgres.url });
  stops.push(() => harness.close());
  return { harness, url: postgres.url };
}

describe('while Postgres', () => {
  it('is read-only, it says so, and is ready again when that ends', async () => {
    const { harness, url } = await ownPostgres();
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200, postgres: 'ok' });
    await execute(url, "alter system set default_transaction_read_only = 'on'");
    await execute(url, 'select pg_reload_conf()');
    await expect
      .poll(() => ready(harness))
      .toMatchObject({
        http: 503,
        code: 'STORE_UNAVAILABLE',
        postgres: 'read-only',
        redis: 'ok',
        detail: 'Postgres is read-only',
      });
    await execute(url, 'alter system reset default_transaction_read_only');
    await execute(url, 'select pg_reload_conf()');
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200, status: 'ready' });
  });

  it('has no disk left for what a request stores, it says so, though a check finds room', async () => {
    const { harness, url } = await ownPostgres();
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
    await execute(
      url,
      `create function full_disk() returns trigger language plpgsql as
         $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$;
       create trigger full_disk before insert on oncefleet.jobs for each row execute function full_disk()`,
    );
    const refused = await fetch(harness.url('/v1/jobs/echo'), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ text: 'x' }),
    });
    expect(refused.status).toBe(503);
    expect(await ready(harness)).toMatchObject({
      http: 503,
      postgres: 'disk-full',
      detail: 'Postgres has no disk space left',
    });
    await execute(url, 'drop trigger full_disk on oncefleet.jobs');
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
  });
});

describe('while Redis', () => {
  it.each<[string, [string, string][], [string, string][], string, string]>([
    ['has used its memory', [['maxmemory', '1']], [['maxmemory', '0']], 'out-of-memory', 'Redis has no memory left'],
    [
      'wants more replicas than it has',
      [['min-replicas-to-write', '1']],
      [['min-replicas-to-write', '0']],
      'refuses-writes',
      'Redis refuses writes',
    ],
  ])('%s, it says so, and is ready again when that ends', async (_what, wrong, right, reason, detail) => {
    const { redis, stop } = await startTestRedis();
    stops.push(stop);
    const admin = new Redis(redis.url);
    stops.push(async () => admin.disconnect());
    const harness = await startHarness({ redisUrl: redis.url });
    stops.push(() => harness.close());
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
    for (const [name, value] of wrong) await admin.config('SET', name, value);
    await expect
      .poll(() => ready(harness))
      .toMatchObject({
        http: 503,
        code: 'SERVICE_MISSING',
        postgres: 'ok',
        redis: reason,
        detail,
      });
    for (const [name, value] of right) await admin.config('SET', name, value);
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200, redis: 'ok' });
  });

  it('is a replica, it says so', async () => {
    const { redis, stop } = await startTestRedis();
    stops.push(stop);
    const primary = await startTestRedis();
    stops.push(primary.stop);
    const admin = new Redis(redis.url);
    stops.push(async () => admin.disconnect());
    const harness = await startHarness({ redisUrl: redis.url });
    stops.push(() => harness.close());
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
    const { hostname, port } = new URL(primary.redis.url);
    await admin.call('REPLICAOF', hostname, port);
    await expect.poll(async () => (await ready(harness))['redis']).toBe('read-only');
    await admin.call('REPLICAOF', 'NO', 'ONE');
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
  });
});

describe('a check', () => {
  it('writes at most once in two seconds, however often it is made, and nothing where the role may not', async () => {
    const { harness, url } = await ownPostgres();
    const before = performance.now();
    await Promise.all(Array.from({ length: 50 }, () => ready(harness)));
    for (let n = 0; n < 20; n++) await ready(harness);
    const allowed = 1 + Math.ceil((performance.now() - before) / 2_000);
    const db = createDb({ url, maxConnections: 1, applicationName: 'test', onError: () => {} });
    stops.push(() => db.close());
    await sql`select pg_stat_force_next_flush()`.execute(db.kysely);
    await expect
      .poll(async () => {
        const { rows } = await sql<{ writes: number }>`
          select n_tup_ins + n_tup_upd as writes from pg_stat_user_tables where relname = 'write_probe'`.execute(
          db.kysely,
        );
        return rows[0]?.writes ?? 0;
      })
      .toBeGreaterThan(0);
    const { rows } = await sql<{ writes: number }>`
      select n_tup_ins + n_tup_upd as writes from pg_stat_user_tables where relname = 'write_probe'`.execute(db.kysely);
    expect(rows[0]?.writes).toBeLessThanOrEqual(allowed);

    await execute(url, 'drop table oncefleet.write_probe');
    await expect.poll(() => ready(harness)).toMatchObject({ http: 200 });
  });
});
