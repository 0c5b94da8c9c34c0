/** Servers that really have no room, or whose settings refuse writes: `/readyz` says so, jobs wait, and all goes on after. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, it } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { startTestPostgres, startTestRedis } from '../helpers/services.ts';
import { gate, type Harness, startHarness } from './harness.ts';

const stops: (() => unknown)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

const WAIT = { timeout: 60_000 };

async function ready(harness: Harness): Promise<Record<string, unknown>> {
  const response = await fetch(harness.url('/readyz'));
  return { http: response.status, ...((await response.json()) as Record<string, unknown>) };
}

async function migrated(url: string): Promise<void> {
  const db = createDb({ url, maxConnections: 1, applicationName: 'test', onError: () => {} });
  await migrate(db.kysely);
  await db.close();
}

/** @returns undefined: this process may mount nothing */
function mountSmall(megabytes: number): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'oncefleet-small-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m,mode=755`, 'tmpfs', folder]);
  if (mounted.status !== 0) {
    rmSync(folder, { recursive: true });
    return undefined;
  }
  stops.push(() => {
    spawnSync('umount', ['-l', folder]);
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

/** Writes until there is no room. */
function fill(file: string): void {
  for (const size of [1024 * 1024, 4096])
    try {
      for (;;) writeFileSync(file, Buffer.alloc(size), { flag: 'a' });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    }
}

const enqueue = async (harness: Harness, job: string, input: unknown, key: string) => {
  const response = await fetch(harness.url(`/v1/jobs/${job}`), {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify(input),
  });
  return { status: response.status, id: ((await response.json()) as { id?: string }).id };
};

describe('a disk of Postgres that is full', { timeout: 300_000 }, () => {
  it('makes the process not ready; nothing that was accepted is lost, and all goes on when there is room', async (ctx) => {
    const folder = mountSmall(64);
    if (folder === undefined) return ctx.skip('this process may not mount a small file system');
    const { postgres, stop } = await startTestPostgres();
    stops.push(stop);
    const { rows } = await execute(postgres.url, "select current_setting('data_directory') as folder");
    const space = join(folder, 'space');
    mkdirSync(space, { mode: 0o700 });
    const { uid, gid } = statSync(String(rows[0]?.['folder']));
    chownSync(space, uid, gid);
    await execute(postgres.url, `create tablespace small location '${space}'`);
    await execute(postgres.url, 'create database small tablespace small');
    const url = Object.assign(new URL(postgres.url), { pathname: '/small' }).href;
    await migrated(url);
    const harness = await startHarness({ databaseUrl: url });
    stops.push(() => harness.close());
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200 });
    const running = await enqueue(harness, 'stepper', { gate: 'disk', steps: 1 }, 'running');
    expect(running.status).toBe(202);

    const ballast = join(folder, 'ballast');
    fill(ballast);
    const accepted: string[] = [];
    let refused = 0;
    // Pages that have room yet are used up.
    for (let n = 0; n < 5_000 && refused < 3; n++) {
      const text = randomBytes(20_000).toString('base64url');
      const { status, id } = await enqueue(harness, 'echo', { text }, `key-${n}`);
      if (id !== undefined) accepted.push(id);
      else {
        expect(status).toBe(503);
        refused++;
      }
    }
    expect(refused).toBe(3);
    expect(await ready(harness)).toMatchObject({ http: 503, postgres: 'disk-full', redis: 'ok' });
    // Its outcome may find no room: then it is tried again, or by another run.
    gate.open('disk', 10);

    rmSync(ballast);
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200, status: 'ready' });
    for (const id of [...accepted, running.id as string])
      await expect.poll(async () => (await harness.fleet.get(id))?.status, WAIT).toBe('completed');
    const after = await enqueue(harness, 'echo', { text: 'again' }, 'key-after');
    expect(after.status).toBe(202);
    await expect.poll(async () => (await harness.fleet.get(after.id as string))?.status, WAIT).toBe('completed');
  });
});

describe('a database that is made read-only for new sessions', { timeout: 120_000 }, () => {
  it('is seen by /readyz as soon as sessions are new, and is ready again without a restart', async () => {
    const { postgres, stop } = await startTestPostgres();
    stops.push(stop);
    await migrated(postgres.url);
    const harness = await startHarness({ databaseUrl: postgres.url });
    stops.push(() => harness.close());
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200 });
    const name = new URL(postgres.url).pathname.slice(1);
    const endSessions = () =>
      execute(
        postgres.url,
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
      );
    await execute(postgres.url, `alter database "${name}" set default_transaction_read_only = on`);
    await endSessions();
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 503, postgres: 'read-only', redis: 'ok' });
    const writable = new URL(postgres.url);
    writable.searchParams.set('options', '-c default_transaction_read_only=off');
    await execute(writable.href, `alter database "${name}" reset default_transaction_read_only`);
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200, postgres: 'ok' });
    const { id, status } = await enqueue(harness, 'echo', { text: 'x' }, 'after');
    expect(status).toBe(202);
    await expect.poll(async () => (await harness.fleet.get(id as string))?.status, WAIT).toBe('completed');
  });
});

describe('a Redis that cannot save', { timeout: 120_000 }, () => {
  it('refuses writes (MISCONF): /readyz says so, jobs are accepted, and run when it can', async () => {
    const { redis, stop } = await startTestRedis();
    stops.push(stop);
    const admin = new Redis(redis.url);
    stops.push(() => admin.disconnect());
    const harness = await startHarness({ redisUrl: redis.url });
    stops.push(() => harness.close());
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200 });
    const [, folder = ''] = (await admin.config('GET', 'dir')) as string[];
    const [, file = ''] = (await admin.config('GET', 'dbfilename')) as string[];
    // Its snapshot cannot take the place of a folder that has something in it.
    const path = join(folder, file);
    rmSync(path, { recursive: true, force: true });
    mkdirSync(join(path, 'in the way'), { recursive: true });
    await admin.config('SET', 'save', '3600 1');
    await expect
      .poll(async () => {
        await admin.call('BGSAVE').catch(() => {});
        return admin.info('persistence');
      }, WAIT)
      .toContain('rdb_last_bgsave_status:err');
    await expect
      .poll(() => ready(harness), WAIT)
      .toMatchObject({ http: 503, code: 'SERVICE_MISSING', postgres: 'ok', redis: 'cannot-save' });
    const { id, status } = await enqueue(harness, 'echo', { text: 'x' }, 'misconf');
    expect(status).toBe(202);
    rmSync(path, { recursive: true });
    await expect
      .poll(async () => {
        await admin.call('BGSAVE').catch(() => {});
        return admin.info('persistence');
      }, WAIT)
      .toContain('rdb_last_bgsave_status:ok');
    await expect.poll(() => ready(harness), WAIT).toMatchObject({ http: 200, redis: 'ok' });
    await expect.poll(async () => (await harness.fleet.get(id as string))?.status, WAIT).toBe('completed');
  });
});
