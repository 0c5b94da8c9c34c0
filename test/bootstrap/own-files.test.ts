/**
 * What somebody else may have put into `.oncefleet` before a start: nothing outside of it is written, made longer,
 * emptied or given away, whether the start goes on or refuses.
 */
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { chmod, link, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { startServices } from '../../scripts/services.ts';
import { openOwnLog, readForeignFile, takeFolder, writeOwnFile } from '../../src/testing/services/own-files.ts';
import { serviceIdentity } from '../../src/testing/services/place.ts';
import { createTestFolder } from '../helpers/services.ts';

const isRoot = process.getuid?.() === 0;

let [folder, home, victim, victimFolder] = ['', '', '', ''];

beforeEach(async () => {
  folder = await createTestFolder();
  await chmod(folder, 0o755);
  home = join(folder, '.oncefleet');
  victim = join(folder, 'victim');
  victimFolder = join(folder, 'victims');
  writeFileSync(victim, 'root only\n', { mode: 0o600 });
  mkdirSync(victimFolder, { mode: 0o700 });
  writeFileSync(join(victimFolder, 'kept'), 'kept\n');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function expectUntouched(): void {
  expect(readFileSync(victim, 'utf8')).toBe('root only\n');
  for (const [path, mode] of [
    [victim, 0o600],
    [victimFolder, 0o700],
  ] as const) {
    const { uid, mode: has } = statSync(path);
    expect([path, uid, has & 0o777]).toEqual([path, process.getuid?.(), mode]);
  }
}

function plant(path: string, target: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  symlinkSync(target, path);
}

describe('a start of private servers', () => {
  const start = async () => {
    const services = await startServices({ kind: 'dev', home, lasting: true, durable: false });
    await services.stop();
    return services;
  };

  test.each([
    ['.oncefleet', () => home, () => victimFolder],
    ['the folder of dev', () => join(home, 'dev'), () => victimFolder],
    ["Postgres's data", () => join(home, 'dev', 'postgres'), () => victimFolder],
    ["Redis's data", () => join(home, 'dev', 'redis'), () => victimFolder],
    ['the folder of logs', () => join(home, 'dev', 'logs'), () => victimFolder],
    ["Redis's log", () => join(home, 'dev', 'redis.log'), () => victim],
    ["Postgres's log", () => join(home, 'dev', 'postgres.log'), () => victim],
  ])('refuses a link in the place of %s, with a sentence', async (_what, path, target) => {
    plant(path(), target());
    await expect(start()).rejects.toThrow(`${path()} is a symbolic link: remove it, or run the command as its owner`);
    expectUntouched();
    expect(await readdir(victimFolder)).toEqual(['kept']);
  });

  test.each(['postgres.password', 'initdb.password'])('puts a new file in the place of a link: %s', async (name) => {
    plant(join(home, 'dev', name), victim);
    const services = await start();
    expectUntouched();
    expect(lstatSync(join(home, 'dev', 'postgres.password')).isFile()).toBe(true);
    expect(existsSync(join(home, 'dev', 'initdb.password'))).toBe(false);
    expect(services.folder).toBe(join(home, 'dev'));
  });

  test.runIf(isRoot)('as root gives away the folders of data alone, and a second start works', async () => {
    await start();
    await start();
    const { uid } = serviceIdentity() as { uid: number };
    const owners = (await readdir(join(home, 'dev'))).map((name) => [name, lstatSync(join(home, 'dev', name)).uid]);
    expect(Object.fromEntries(owners)).toEqual({
      logs: 0,
      postgres: uid,
      'postgres.log': 0,
      'postgres.password': 0,
      redis: uid,
      'redis.log': 0,
    });
    expect([home, join(home, 'dev')].map((path) => lstatSync(path).uid)).toEqual([0, 0]);
    expect(lstatSync(join(home, 'dev')).mode & 0o777).toBe(0o711);
  });

  test.runIf(isRoot).each([
    ['.oncefleet', () => home],
    ['the folder of dev', () => join(home, 'dev')],
    ['the folder of logs', () => join(home, 'dev', 'logs')],
  ])("refuses another user's %s, with a sentence", async (_what, path) => {
    mkdirSync(path(), { recursive: true });
    chownSync(path(), 65_534, 65_534);
    await expect(start()).rejects.toThrow(
      `${path()} belongs to another user (uid 65534), not to uid 0: remove it, or run the command as its owner`,
    );
  });

  test.runIf(isRoot)('does not stop at what the servers put into their data', async () => {
    await start();
    const data = join(home, 'dev', 'postgres');
    await rm(join(data, 'postmaster.pid'), { force: true });
    symlinkSync(victim, join(data, 'postmaster.pid'));
    await start().catch(() => undefined);
    expectUntouched();
  });
});

describe('files of this user', () => {
  test('are new ones in the place of links, hard links and foreign files', async () => {
    const path = join(folder, 'file');
    symlinkSync(victim, path);
    writeOwnFile(path, 'mine\n');
    expect(readFileSync(path, 'utf8')).toBe('mine\n');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await rm(path);
    await link(victim, path);
    writeOwnFile(path, 'mine\n', 0o644);
    expect(readFileSync(path, 'utf8')).toBe('mine\n');
    expectUntouched();
  });

  test('a log is appended to, and a link, a hard link or a foreign file in its place is refused', async () => {
    const path = join(folder, 'log');
    writeFileSync(path, 'first\n');
    expect(openOwnLog(path)).toBeGreaterThan(2);
    expect(readFileSync(path, 'utf8')).toBe('first\n');
    await rm(path);
    symlinkSync(join(folder, 'nowhere'), path);
    expect(() => openOwnLog(path)).toThrow('is a symbolic link');
    expect(existsSync(join(folder, 'nowhere'))).toBe(false);
    await rm(path);
    await link(victim, path);
    expect(() => openOwnLog(path)).toThrow('is not a file of this user alone');
    if (!isRoot) return;
    await rm(path);
    writeFileSync(path, '');
    chownSync(path, 65_534, 65_534);
    expect(() => openOwnLog(path)).toThrow('is not a file of this user alone');
  });

  test('what was given away is read without links and without waiting', () => {
    expect(readForeignFile(victim)).toBe('root only\n');
    symlinkSync(victim, join(folder, 'link'));
    expect(readForeignFile(join(folder, 'link'))).toBeUndefined();
    expect(readForeignFile(victimFolder)).toBeUndefined();
    expect(readForeignFile(join(folder, 'none'))).toBeUndefined();
  });

  test('a folder that was open to others is closed', async () => {
    const path = join(folder, 'open');
    mkdirSync(path);
    await chmod(path, 0o777);
    await takeFolder(path, 0o700);
    expect(statSync(path).mode & 0o777).toBe(0o700);
  });
});
