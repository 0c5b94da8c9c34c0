/** Which settings a command takes from files of the folder it is given in. */
import { chownSync, symlinkSync } from 'node:fs';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { CliContext } from '../../src/cli/context.ts';
import { DEV_SETTINGS, readSettings } from '../../src/cli/settings.ts';
import { CONFIG_VARIABLES } from '../../src/config.ts';
import { createTestFolder } from '../helpers/services.ts';

const isRoot = process.getuid?.() === 0;
const SERVERS = 'DATABASE_URL=postgres://127.0.0.1/of_file\nREDIS_URL=redis://127.0.0.1:1\n';

let cwd = '';
beforeEach(async () => {
  cwd = await createTestFolder();
  await mkdir(join(cwd, '.oncefleet'));
});
afterEach(() => rm(cwd, { recursive: true, force: true }));

function read(env: Record<string, string> = {}) {
  return readSettings({ cwd, env } as unknown as CliContext);
}

describe('dev.env', () => {
  const file = () => join(cwd, '.oncefleet', 'dev.env');

  test('nothing but what `npm run dev` writes is taken from dev.env', async () => {
    const others = Object.keys(CONFIG_VARIABLES).filter((name) => !DEV_SETTINGS.includes(name as never));
    expect(others).toContain('ONCEFLEET_JOBS');
    await writeFile(file(), `${SERVERS}${[...others, 'ONCEFLEET_UNKNOWN'].map((name) => `${name}=x\n`).join('')}`);
    await chmod(file(), 0o600);
    const plain = read({ DATABASE_URL: 'postgres://127.0.0.1/of_file', REDIS_URL: 'redis://127.0.0.1:1' });
    expect(read()).toEqual(plain);
    expect(read().databaseUrl).toBe('postgres://127.0.0.1/of_file');
    expect(read().jobModules).toEqual([]);
  });

  test('is not read through a link', async () => {
    await writeFile(join(cwd, 'elsewhere'), SERVERS);
    symlinkSync('../elsewhere', file());
    expect(() => read()).toThrow('.oncefleet/dev.env cannot be read: it is a symbolic link');
  });

  test('that anybody can write is refused, and is no matter where the environment names both servers', async () => {
    await writeFile(file(), SERVERS);
    await chmod(file(), 0o666);
    expect(() => read()).toThrow('.oncefleet/dev.env cannot be read: another user can write it');
    const env = { DATABASE_URL: 'postgres://127.0.0.1/mine', REDIS_URL: 'redis://127.0.0.1:2' };
    expect(read(env).databaseUrl).toBe('postgres://127.0.0.1/mine');
  });

  test.runIf(isRoot)('of another user is refused', async () => {
    await writeFile(file(), SERVERS);
    chownSync(file(), 65_534, 65_534);
    expect(() => read()).toThrow('.oncefleet/dev.env cannot be read: another user can write it');
  });
});

describe('.env', () => {
  const file = () => join(cwd, '.env');

  test('adds to the environment what it lacks, but nothing that has programs load code', async () => {
    await writeFile(file(), `${SERVERS}ONCEFLEET_PREFIX=of_file\nMINE=1\nNODE_OPTIONS=--require=x\nLD_PRELOAD=x\n`);
    const env: Record<string, string> = { ONCEFLEET_PREFIX: 'of_env' };
    expect(read(env)).toMatchObject({ prefix: 'of_env', databaseUrl: 'postgres://127.0.0.1/of_file' });
    expect(Object.keys(env).sort()).toEqual(['DATABASE_URL', 'MINE', 'ONCEFLEET_PREFIX', 'REDIS_URL']);
  });

  test('that anybody can write is refused', async () => {
    await writeFile(file(), SERVERS);
    await chmod(file(), 0o666);
    expect(() => read()).toThrow('.env cannot be read: another user can write it');
  });

  test.runIf(isRoot)('of another user is refused, also behind a link', async () => {
    await writeFile(join(cwd, 'shared'), SERVERS);
    symlinkSync('shared', file());
    expect(read().databaseUrl).toBe('postgres://127.0.0.1/of_file');
    chownSync(join(cwd, 'shared'), 65_534, 65_534);
    expect(() => read()).toThrow('.env cannot be read: another user can write it');
  });

  test('that is no file is no settings', async () => {
    await mkdir(file());
    expect(() => read()).toThrow('DATABASE_URL: is required');
  });
});
