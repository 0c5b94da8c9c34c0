#!/usr/bin/env node
// Starts the command line: from source in a checkout, from dist in an installed package.
// Runs in this very process when it can; where another Node is needed, in a child that
// gets every signal and ends when this process does, however it ends.
// Plain JavaScript without dependencies, for any Node.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as nodeModule from 'node:module';
import { sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const OLDEST = [22, 12];
/** In a child, the pid of the process that waits for it. */
const PARENT_VARIABLE = '_ONCEFLEET_PARENT_PID';

const packageRoot = fileURLToPath(new URL('..', import.meta.url));
const source = new URL('../src/cli/main.ts', import.meta.url);
const built = new URL('../dist/src/cli/main.js', import.meta.url);
// Node strips no types below node_modules, so a package installed there runs its build.
const fromSource = existsSync(source) && !packageRoot.split(sep).includes('node_modules');

if (isChild()) endWithParent();

if (!fromSource && !existsSync(built))
  fail('This copy has neither src/cli/main.ts nor dist/src/cli/main.js: run `npm run build`');
else if (isNewEnough() && (!fromSource || canRunSource())) await import((fromSource ? source : built).href);
else if (isChild()) fail(`Node ${process.version} cannot run this`);
else startChild();

function isNewEnough() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** Types are stripped, and a job module's `import 'oncefleet'` means this source. */
function canRunSource() {
  const resolvesItself =
    typeof nodeModule.registerHooks === 'function' || process.execArgv.includes('--conditions=oncefleet-source');
  return Boolean(process.features.typescript) && resolvesItself;
}

function startChild() {
  const pinned = fileURLToPath(
    new URL(`../node_modules/node/bin/node${process.platform === 'win32' ? '.exe' : ''}`, import.meta.url),
  );
  const own = isNewEnough();
  if (!existsSync(pinned) && !own) {
    fail(
      `Node ${OLDEST.join('.')} or newer is needed; this is ${process.version}${fromSource ? ' and `npm ci` has not installed one yet' : ''}`,
    );
    return;
  }
  const flags = fromSource ? ['--conditions=oncefleet-source'] : [];
  // Before 22.18 the current Node strips types only when told to.
  const [command, nodeFlags] = existsSync(pinned)
    ? [pinned, flags]
    : [process.execPath, ['--experimental-strip-types', '--disable-warning=ExperimentalWarning', ...flags]];
  const child = spawn(command, [...nodeFlags, fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [PARENT_VARIABLE]: String(process.pid) },
  });
  const forward = (signal) => child.kill(signal);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'];
  for (const signal of signals) process.on(signal, forward);
  child.on('error', (error) => fail(`Cannot start ${command}: ${error.message}`));
  child.on('exit', (code, signal) => {
    for (const name of signals) process.off(name, forward);
    if (signal === null) process.exitCode = code;
    else process.kill(process.pid, signal);
  });
}

function isChild() {
  return process.env[PARENT_VARIABLE] === String(process.ppid) && process.send !== undefined;
}

function endWithParent() {
  // Lost only when the parent is gone without a word (SIGKILL): end as it did, so that a
  // worker killed through its parent is one that crashed.
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  process.channel.unref();
}

function fail(message) {
  process.stderr.write(`error SERVICE_MISSING: ${message}\n`);
  process.exitCode = 4;
}
