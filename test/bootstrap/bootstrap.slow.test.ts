/**
 * scripts/bootstrap.mjs in a folder that looks like a clone, with an npm that installs
 * nothing but the pinned Node, or fails as npm does. The real `npm ci` runs in every CI job.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createTestFolder } from '../helpers/services.ts';

const BOOTSTRAP = fileURLToPath(new URL('../../scripts/bootstrap.mjs', import.meta.url));

let clone: string;
const children: ChildProcess[] = [];

beforeEach(async () => {
  clone = await createTestFolder();
  await mkdir(join(clone, 'scripts'));
  cpSync(BOOTSTRAP, join(clone, 'scripts', 'bootstrap.mjs'));
  await write('package.json', JSON.stringify({ devDependencies: { node: process.versions.node } }));
  await write(
    'package-lock.json',
    JSON.stringify({ packages: { '': {}, 'node_modules/node': { version: process.versions.node } } }),
  );
  await write(
    'scripts/demo.ts',
    `console.log('demo', ...process.argv.slice(2)); process.exitCode = Number(process.env.DEMO_EXIT ?? 0);`,
  );
  await write('scripts/dev.ts', `console.log('dev ' + process.pid); setInterval(() => {}, 1000);`);
  await npmThat('mkdir -p node_modules/node/bin; ln -sf "$REAL_NODE" node_modules/node/bin/node');
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(clone, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
});

test('installs packages first, then runs the command with its arguments', async () => {
  const run = await bootstrap(['demo', 'one', '--two']).ended;
  expect(run).toMatchObject({ code: 0, stdout: 'demo one --two\n' });
  expect(run.stderr).toMatch(/Installing packages/);
  expect(npmCalls()).toEqual([
    'ci --include=dev --include=optional --no-audit --no-fund --no-progress --loglevel=warn',
  ]);
});

test('installs again only when package-lock.json changes', async () => {
  await bootstrap(['demo']).ended;
  const second = await bootstrap(['demo']).ended;
  expect(second).toMatchObject({ code: 0, stdout: 'demo\n', stderr: '' });
  expect(npmCalls()).toHaveLength(1);
  await write('package-lock.json', JSON.stringify({ packages: { '': {}, 'node_modules/node': { version: '0.0.1' } } }));
  await bootstrap(['demo']).ended;
  expect(npmCalls()).toHaveLength(2);
});

test.runIf(process.platform === 'linux')('does not run a pinned Node that has another hash than is known', async () => {
  const { devDependencies } = JSON.parse(
    readFileSync(fileURLToPath(new URL('../../package.json', import.meta.url)), 'utf8'),
  );
  expect(readFileSync(BOOTSTRAP, 'utf8')).toContain(`version: '${devDependencies.node}',`);
  await write('package.json', JSON.stringify({ devDependencies: { node: devDependencies.node } }));
  await npmThat(
    'mkdir -p node_modules/node/bin; cp forged node_modules/node/bin/node; chmod +x node_modules/node/bin/node',
  );
  await write('forged', `#!/bin/sh\necho ran >> ran\necho ${devDependencies.node}\n`);
  const run = await bootstrap(['demo']).ended;
  expect(run).toMatchObject({ code: 1, stdout: '' });
  expect(run.stderr).toContain('is not the one that is known (sha256 ');
  expect(existsSync(join(clone, 'ran'))).toBe(false);
  expect(existsSync(join(clone, 'node_modules', 'node', 'bin', 'node'))).toBe(false);
});

test('refuses a .oncefleet that is a link, and follows none in the place of its lock', async () => {
  const [folder, victim] = [join(clone, '.oncefleet'), join(clone, 'victim')];
  await mkdir(victim);
  await symlink(victim, folder);
  expect(await bootstrap(['demo']).ended).toMatchObject({
    code: 1,
    stderr: `${folder} is a symbolic link: remove it, or run the command as its owner\n`,
  });
  expect(readdirSync(victim)).toEqual([]);
  await rm(folder);
  await mkdir(folder);
  for (const target of ['victim/file', 'victim/nowhere']) {
    await write('victim/file', 'kept');
    await symlink(join(clone, target), join(folder, 'install.lock'));
    await rm(join(clone, 'node_modules'), { recursive: true, force: true });
    expect(await bootstrap(['demo']).ended).toMatchObject({ code: 0, stdout: 'demo\n' });
    expect(readFileSync(join(victim, 'file'), 'utf8')).toBe('kept');
    expect(existsSync(join(victim, 'nowhere'))).toBe(false);
  }
});

test('takes what somebody installed by hand, if it is what the lock file says', async () => {
  await bootstrap(['demo']).ended;
  await rm(join(clone, 'node_modules', '.oncefleet-installed'));
  const packages = (version: string) => JSON.stringify({ packages: { 'node_modules/node': { version } } });
  await write('node_modules/.package-lock.json', packages(process.versions.node));
  await bootstrap(['demo']).ended;
  expect(npmCalls()).toHaveLength(1);
  await rm(join(clone, 'node_modules', '.oncefleet-installed'));
  await write('node_modules/.package-lock.json', packages('0.0.1'));
  await bootstrap(['demo']).ended;
  expect(npmCalls()).toHaveLength(2);
});

test("passes the command's exit code on", async () => {
  expect(await bootstrap(['demo'], { DEMO_EXIT: '7' }).ended).toMatchObject({ code: 7 });
});

test('says what there is when the command is unknown, and installs nothing', async () => {
  const run = await bootstrap(['constructor']).ended;
  expect(run).toMatchObject({ code: 2, stdout: '' });
  expect(run.stderr).toBe(
    'Usage: node scripts/bootstrap.mjs demo | dev | bench | chaos | mutate | build | test | test:slow [arguments]\n',
  );
  expect(npmCalls()).toEqual([]);
});

test('a failing npm: the end of what it said, advice, exit code 1, and no warnings of a good run', async () => {
  await npmThat(
    'echo "npm warn EBADENGINE noise"; for i in $(seq 50); do echo "line $i"; done; echo "npm error code ENOTFOUND" >&2; exit 1',
  );
  const run = await bootstrap(['demo']).ended;
  expect(run).toMatchObject({ code: 1, stdout: '' });
  expect(run.stderr).toContain('line 50');
  expect(run.stderr).toContain('npm error code ENOTFOUND');
  expect(run.stderr).not.toContain('EBADENGINE');
  expect(run.stderr).toContain('The package registry cannot be reached');
  await npmThat(
    'echo "npm warn EBADENGINE noise"; mkdir -p node_modules/node/bin; ln -sf "$REAL_NODE" node_modules/node/bin/node',
  );
  const next = await bootstrap(['demo']).ended;
  expect(next.code).toBe(0);
  expect(next.stderr).not.toContain('EBADENGINE');
});

test('an npm that is not there is named', async () => {
  const run = await bootstrap(['demo'], { PATH: '/nowhere' }).ended;
  expect(run.code).toBe(1);
  expect(run.stderr).toContain('npm was not found');
});

test('where npm ran no install scripts, a current Node that is new enough is taken', async () => {
  await npmThat('mkdir -p node_modules/node');
  const run = await bootstrap(['demo'], { npm_config_ignore_scripts: 'true' }).ended;
  expect(run).toMatchObject({ code: 0, stdout: 'demo\n' });
});

test('two at once in one clone install once', async () => {
  await npmThat('sleep 1; mkdir -p node_modules/node/bin; ln -sf "$REAL_NODE" node_modules/node/bin/node');
  const runs = await Promise.all([bootstrap(['demo']).ended, bootstrap(['demo']).ended, bootstrap(['demo']).ended]);
  expect(runs.map(({ code, stdout }) => [code, stdout])).toEqual(runs.map(() => [0, 'demo\n']));
  expect(npmCalls()).toHaveLength(1);
  expect(runs.filter(({ stderr }) => stderr.includes('Another set-up is at work')).length).toBeGreaterThanOrEqual(1);
  expect(existsSync(join(clone, '.oncefleet', 'install.lock'))).toBe(false);
});

test('a lock whose holders are gone is void', async () => {
  const gone = spawn(process.execPath, ['-e', '']);
  await new Promise((resolve) => gone.once('exit', resolve));
  await mkdir(join(clone, '.oncefleet'));
  await write('.oncefleet/install.lock', `${gone.pid} ${gone.pid}\n`);
  const runs = await Promise.all([bootstrap(['demo']).ended, bootstrap(['demo']).ended]);
  expect(runs.map(({ code }) => code)).toEqual([0, 0]);
  expect(npmCalls()).toHaveLength(1);
});

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s while npm works stops npm, and the next run installs again', async (signal, code) => {
  await npmThat('echo working > working; exec sleep 60');
  const run = bootstrap(['demo']);
  await expect.poll(() => existsSync(join(clone, 'working'))).toBe(true);
  run.child.kill(signal);
  const { stderr, ...stopped } = await run.ended;
  expect(stopped).toEqual({ code, stdout: '' });
  expect(stderr).toMatch(/^Stopping \(press again to end at once\)$/m);
  expect(stderr).toMatch(/^Stopped\. The next run installs the packages anew\.$/m);
  expect(existsSync(join(clone, '.oncefleet', 'install.lock'))).toBe(false);
  await npmThat('mkdir -p node_modules/node/bin; ln -sf "$REAL_NODE" node_modules/node/bin/node');
  expect(await bootstrap(['demo']).ended).toMatchObject({ code: 0, stdout: 'demo\n' });
});

test('an npm that takes its time to stop: that it stops is said at once, and a second press ends it', async () => {
  await npmThat('trap "echo told >> told" INT; echo working > working; while :; do sleep 0.1; done');
  const run = bootstrap(['demo']);
  await expect.poll(() => existsSync(join(clone, 'working'))).toBe(true);
  run.child.kill('SIGINT');
  await expect.poll(() => run.stderr()).toContain('Stopping (press again to end at once)\n');
  await expect.poll(() => existsSync(join(clone, 'told'))).toBe(true);
  expect(run.child.exitCode).toBeNull();
  // Within 200 ms of the first it would count as the same press.
  await expect
    .poll(
      () => {
        run.child.kill('SIGINT');
        return run.child.exitCode;
      },
      { interval: 300, timeout: 15_000 },
    )
    .toBe(130);
  expect((await run.ended).stderr.match(/^Stopping/gm)).toHaveLength(1);
  expect(existsSync(join(clone, '.oncefleet', 'install.lock'))).toBe(false);
});

test.runIf(process.platform === 'linux')('on a terminal npm is told as well, whoever sent the signal', async () => {
  await npmThat('echo working > working; exec sleep 60');
  // script(1) gives it a terminal; the signal goes to the bootstrap alone.
  const run = bootstrap(['demo'], {}, ['script', '-qec', `exec "$REAL_NODE" scripts/bootstrap.mjs demo`, '/dev/null']);
  await expect.poll(() => existsSync(join(clone, 'working'))).toBe(true);
  const [pid] = readFileSync(join(clone, '.oncefleet', 'install.lock'), 'utf8').split(' ');
  process.kill(Number(pid), 'SIGINT');
  expect(await run.ended).toMatchObject({ code: 130, stdout: expect.stringContaining('Stopping (press again') });
});

test('a signal reaches the command, and its end is passed on', async () => {
  await bootstrap(['demo']).ended;
  const run = bootstrap(['dev']);
  await expect.poll(() => run.stdout()).toMatch(/^dev \d+\n$/);
  run.child.kill('SIGTERM');
  expect((await run.ended).code).toBe(143);
});

function write(path: string, text: string): Promise<void> {
  return writeFile(join(clone, path), text);
}

/** npm in shell: what it is called with is kept, node_modules is removed first as `npm ci` does. */
async function npmThat(does: string): Promise<void> {
  await mkdir(join(clone, 'bin'), { recursive: true });
  await write('bin/npm', `#!/bin/sh\necho "$@" >> npm-calls\nrm -rf node_modules\n${does}\n`);
  await chmod(join(clone, 'bin', 'npm'), 0o755);
}

function npmCalls(): string[] {
  const file = join(clone, 'npm-calls');
  return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
}

interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

function bootstrap(
  args: string[],
  env: NodeJS.ProcessEnv = {},
  [command, ...rest]: [string, ...string[]] = [process.execPath, 'scripts/bootstrap.mjs', ...args],
): { child: ChildProcess; stdout(): string; stderr(): string; ended: Promise<Run> } {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('npm_')));
  const child = spawn(command, rest, {
    cwd: clone,
    env: { ...inherited, PATH: `${join(clone, 'bin')}:${process.env.PATH}`, REAL_NODE: process.execPath, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const ended = new Promise<Run>((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })));
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}
