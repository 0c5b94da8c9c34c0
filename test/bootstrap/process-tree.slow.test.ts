/**
 * `npm run …` as it really is: npm, a shell, scripts/bootstrap.mjs, the program, its watchdog, Postgres and Redis.
 * Whoever of them is ended, and how, none of the others keeps running.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { descendantsOf, isRunning } from '../helpers/process-tree.ts';
import { createTestFolder } from '../helpers/services.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LIMIT_MS = 60_000;
/** The longest grace of a server, and what npm and the polls need. */
const END_LIMIT_MS = 20_000;

let clone: string;
let started: ChildProcess | undefined;
let pids: number[] = [];

beforeEach(async () => {
  clone = await createTestFolder();
  await mkdir(join(clone, 'scripts'));
  await mkdir(join(clone, 'node_modules', 'node', 'bin'), { recursive: true });
  cpSync(join(ROOT, 'scripts', 'bootstrap.mjs'), join(clone, 'scripts', 'bootstrap.mjs'));
  await symlink(process.execPath, join(clone, 'node_modules', 'node', 'bin', 'node'));
  const versions = { version: process.versions.node };
  const scripts = Object.fromEntries(
    ['dev', 'demo', 'test'].map((name) => [name, `node scripts/bootstrap.mjs ${name}`]),
  );
  await write('package.json', { name: 'clone', scripts, devDependencies: { node: process.versions.node } });
  await write('package-lock.json', { packages: { '': {}, 'node_modules/node': versions } });
  await write('node_modules/.package-lock.json', { packages: { 'node_modules/node': versions } });
  const program = `
    import { listenForStop } from ${JSON.stringify(join(ROOT, 'scripts/entry.ts'))};
    import { startServices } from ${JSON.stringify(join(ROOT, 'scripts/services.ts'))};
    const stop = listenForStop();
    const services = await startServices({ kind: 'test', durable: false });
    setInterval(() => {}, 60_000);
    stop.signal.addEventListener('abort', async () => {
      // One that takes its time is hurried by a second signal.
      if (process.env.HANGS === 'yes') return console.log('hangs');
      await services.stop();
      process.exit(0);
    });
    console.log('up');`;
  for (const name of ['dev', 'demo']) await writeFile(join(clone, 'scripts', `${name}.ts`), program);
});

afterEach(async () => {
  for (const pid of [...pids, ...(started?.pid === undefined ? [] : [started.pid])])
    if (isRunning(pid)) process.kill(pid, 'SIGKILL');
  await rm(clone, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
});

function write(path: string, value: unknown): Promise<void> {
  return writeFile(join(clone, path), JSON.stringify(value));
}

/** @returns what each process of the tree is, once all is up */
async function npmRun(
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<{ said(): string; tree: Map<string, number> }> {
  const { DATABASE_URL, REDIS_URL, ...inherited } = Object.fromEntries(
    Object.entries(process.env).filter(([variable]) => !variable.startsWith('npm_')),
  );
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules'));
  const child = spawn('npm', ['run', name], {
    cwd: clone,
    env: { ...inherited, PATH: path.join(delimiter), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  started = child;
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      text += chunk;
    });
  await expect.poll(() => text, { timeout: LIMIT_MS }).toContain('\nup\n');
  pids = descendantsOf(child.pid as number);
  const tree = new Map([['npm', child.pid as number]]);
  for (const pid of pids) {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    for (const [what, pattern] of [
      ['bootstrap', /^\S*node scripts\/bootstrap\.mjs/],
      ['program', /scripts\/(dev|demo)\.ts/],
      ['Postgres', /bin\/postgres -D/],
      ['Redis', /redis|valkey/],
      ['shell', /^\S*sh -c/],
    ] as const)
      if (pattern.test(command)) tree.set(what, pid);
  }
  expect([...tree.keys()]).toEqual(expect.arrayContaining(['bootstrap', 'program', 'Postgres', 'Redis']));
  return { said: () => text, tree };
}

function expectNoneLeft(): Promise<void> {
  return expect.poll(() => [...pids, started?.pid as number].filter(isRunning), { timeout: END_LIMIT_MS }).toEqual([]);
}

test.runIf(process.platform === 'linux').each([
  ['npm', 'SIGTERM'],
  ['the whole group', 'SIGINT'],
  ['npm', 'SIGHUP'],
  ['npm', 'SIGKILL'],
  ['bootstrap', 'SIGTERM'],
  ['bootstrap', 'SIGKILL'],
  ['program', 'SIGTERM'],
  ['program', 'SIGKILL'],
] as const)('%s ended by %s leaves nothing running', { timeout: LIMIT_MS + END_LIMIT_MS }, async (who, signal) => {
  const { tree } = await npmRun(who === 'program' ? 'demo' : 'dev');
  // As a terminal does. To npm alone it would be kept by the shell in between.
  process.kill(who === 'the whole group' ? -(tree.get('npm') as number) : (tree.get(who) as number), signal);
  await expectNoneLeft();
});

test.runIf(process.platform === 'linux')(
  'a second SIGTERM to npm or what it left ends a program that hangs',
  { timeout: LIMIT_MS + END_LIMIT_MS },
  async () => {
    const { tree, said } = await npmRun('dev', { HANGS: 'yes' });
    process.kill(tree.get('npm') as number, 'SIGTERM');
    await expect.poll(said, { timeout: END_LIMIT_MS }).toContain('hangs');
    expect(isRunning(tree.get('program') as number)).toBe(true);
    // Within 300 ms of the first it would count as the same press.
    await expect
      .poll(
        () => {
          const bootstrap = tree.get('bootstrap') as number;
          if (isRunning(bootstrap)) process.kill(bootstrap, 'SIGTERM');
          return isRunning(tree.get('program') as number);
        },
        { interval: 400, timeout: END_LIMIT_MS },
      )
      .toBe(false);
    await expectNoneLeft();
  },
);
