/** The policy that keeps a package from starting its service goes away, however its maker ended. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { forbidServices, removeStalePolicy } from '../../src/testing/services/apt-policy.ts';
import { createTestFolder } from '../helpers/services.ts';

const MODULE = fileURLToPath(new URL('../../src/testing/services/apt-policy.ts', import.meta.url));

let [folder, path] = ['', ''];
beforeEach(async () => {
  folder = await createTestFolder();
  path = join(folder, 'sbin', 'policy-rc.d');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test('is executable, says 101, and goes when it is released', async () => {
  const policy = await forbidServices(path);
  expect(lstatSync(path).mode & 0o111).toBe(0o111);
  expect(readFileSync(path, 'utf8')).toMatch(/^#!\/bin\/sh\n.*\nexit 101\n$/);
  policy.release();
  expect(existsSync(path)).toBe(false);
});

/** A process that holds the policy while `child`, if any, runs. @returns the text of the policy */
async function hold(during = '0'): Promise<{ child: ReturnType<typeof spawn>; text: string }> {
  const program = `
    const { forbidServices } = await import(${JSON.stringify(MODULE)});
    const policy = await forbidServices(${JSON.stringify(path)});
    if (${during} > 0) policy.whileRuns(${during});
    setInterval(() => {}, 60_000);
    console.log('held');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return { child, text: readFileSync(path, 'utf8') };
}

test.each(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGKILL'] as const)('goes when its maker is ended by %s', async (signal) => {
  const { child } = await hold();
  child.kill(signal);
  await expect.poll(() => existsSync(path), { timeout: 20_000 }).toBe(false);
});

test('stays as long as the installation that outlives its maker', async () => {
  const install = spawn('sleep', ['60']);
  const { child } = await hold(String(install.pid));
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(existsSync(path)).toBe(true);
  install.kill('SIGKILL');
  await expect.poll(() => existsSync(path), { timeout: 20_000 }).toBe(false);
});

test('is left alone where somebody has written another meanwhile', async () => {
  const policy = await forbidServices(path);
  await writeFile(path, '#!/bin/sh\nexit 0\n');
  policy.release();
  expect(readFileSync(path, 'utf8')).toBe('#!/bin/sh\nexit 0\n');
});

test('of a run that was killed together with its watchdog is removed by the next start', async () => {
  const { child, text } = await hold();
  child.kill('SIGKILL');
  await expect.poll(() => existsSync(path), { timeout: 20_000 }).toBe(false);
  await writeFile(path, text);
  removeStalePolicy(path);
  expect(existsSync(path)).toBe(false);
});

test('of a run that still works, of somebody else, or behind a link, is not removed', async () => {
  const { child, text } = await hold();
  removeStalePolicy(path);
  expect(readFileSync(path, 'utf8')).toBe(text);
  const foreign = await forbidServices(path);
  foreign.release();
  expect(readFileSync(path, 'utf8')).toBe(text);
  child.kill('SIGKILL');
  await expect.poll(() => existsSync(path), { timeout: 20_000 }).toBe(false);
  await writeFile(path, `${text}# and more\n`);
  removeStalePolicy(path);
  expect(existsSync(path)).toBe(true);
  await rm(path);
  await writeFile(join(folder, 'elsewhere'), text);
  await symlink(join(folder, 'elsewhere'), path);
  removeStalePolicy(path);
  (await forbidServices(path)).release();
  expect(lstatSync(path).isSymbolicLink()).toBe(true);
  expect(existsSync(join(folder, 'elsewhere'))).toBe(true);
});
