/** `npm run dev`: the system as it is deployed, on servers of its own, until Ctrl-C. Its data stays in `.oncefleet/dev`. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DEV_SETTINGS } from '../src/cli/settings.ts';
import { watchdog } from '../src/testing/services/child.ts';
import { readForeignFile, takeFolder, writeOwnFile } from '../src/testing/services/own-files.ts';
import { findFreePort, isPortFree } from '../src/testing/services/ports.ts';
import { type Member, type Processes, runCommand, startProcesses } from './demo/processes.ts';
import { Screen } from './demo/screen.ts';
import { formatSettings } from './dev-settings.ts';
import { exitCodeOf, listenForStop } from './entry.ts';
import { ROOT } from './root.ts';
import { startServices } from './services.ts';

const HOME = join(ROOT, '.oncefleet');
const LOCK = join(HOME, 'dev.pid');
/** What another terminal needs to use the same system. */
const SETTINGS = join(HOME, 'dev.env');
const DEFAULT_PORT = 3_000;
const RESTART_MS = 1_000;
/** Killing a worker is part of developing; the production default keeps its jobs for a minute. */
const TIMES = { ONCEFLEET_LEASE_TTL_MS: '10000', ONCEFLEET_HEARTBEAT_MS: '3000', ONCEFLEET_RECONCILE_MS: '1000' };

const screen = new Screen(process.stdout, process.env);
const stop = listenForStop();
const closers: (() => Promise<unknown>)[] = [];

// Nobody reads any more; the system continues until it is stopped.
process.stdout.on('error', () => {});

const code = await main();
// Whatever is still open must not keep a stopped system alive; the watchdog sees to it.
process.stdout.write('', () => process.exit(code));

async function main(): Promise<number> {
  let failure: unknown;
  try {
    await run();
  } catch (error) {
    if (!stop.signal.aborted) failure = error;
  }
  if (stop.signal.aborted) {
    screen.line();
    screen.line('Stopping; running jobs may finish (press again to end at once)');
  }
  for (let closer = closers.pop(); closer !== undefined; closer = closers.pop()) {
    await closer().catch((error) => {
      failure ??= error;
    });
  }
  if (failure === undefined) {
    screen.line('Stopped; the data is kept.');
    return stop.by === 'SIGHUP' ? exitCodeOf('SIGHUP') : 0;
  }
  screen.block(failure instanceof Error ? failure.message : String(failure));
  return 1;
}

async function run(): Promise<void> {
  if (existsSync(join(ROOT, '.env'))) process.loadEnvFile(join(ROOT, '.env'));
  await takeLock();
  // Of a run that was killed: its servers are gone.
  await rm(SETTINGS, { force: true });
  screen.line('Starting Postgres and Redis');
  const services = await startServices({
    kind: 'dev',
    databaseUrl: process.env.DATABASE_URL,
    redisUrl: process.env.REDIS_URL,
    lasting: true,
    say: (line) => screen.line(line),
  });
  closers.push(services.stop);
  stop.signal.throwIfAborted();

  const folder = services.folder ?? (await temporaryFolder());
  await rm(join(folder, 'logs'), { recursive: true, force: true });
  await takeFolder(join(folder, 'logs'), 0o700);
  const env = { ...unsetOnly(TIMES), DATABASE_URL: services.databaseUrl, REDIS_URL: services.redisUrl };
  screen.line('Migrating the database');
  await runCommand(['migrate'], { env, folder, signal: stop.signal });
  screen.line('Starting the web process and two workers');
  const host = given('HOST') ?? '127.0.0.1';
  const system: Processes = await startProcesses({
    env,
    folder,
    workers: 2,
    host,
    port: await choosePort(host),
    signal: stop.signal,
    onEnd: (member, exit) => void restart(system, member, `${exit.code ?? exit.signal}`),
  });
  closers.push(system.stop);
  writeSettings({ ...env, ONCEFLEET_PREFIX: given('ONCEFLEET_PREFIX') ?? 'oncefleet' });
  closers.push(() => rm(SETTINGS, { force: true }));
  introduce(system, folder);
  await new Promise<void>((resolve) => {
    // A pending promise alone does not keep the process alive.
    const hold = setInterval(() => {}, 60_000);
    const onStop = () => {
      clearInterval(hold);
      resolve();
    };
    if (stop.signal.aborted) onStop();
    else stop.signal.addEventListener('abort', onStop, { once: true });
  });
}

async function restart(system: Processes, member: Member, how: string): Promise<void> {
  screen.line(screen.style('yellow', `${member.name} (pid ${member.child.pid}) ended with ${how}; starting another`));
  const said = member.child.tail(5);
  if (how !== 'SIGKILL' && said !== '') screen.block(said);
  await sleep(RESTART_MS);
  if (stop.signal.aborted) return;
  try {
    await system.replace(member);
    screen.line(`${member.name} is pid ${member.child.pid} now`);
  } catch (error) {
    screen.line(screen.style('red', `${member.name} cannot be started:`));
    screen.block((error as Error).message);
  }
}

function introduce({ api, web, workers }: Processes, folder: string): void {
  const cli = 'npm run --silent oncefleet --';
  const command = (text: string) => screen.item(screen.style('cyan', text));
  screen.line();
  screen.line(`${screen.style('green', 'Oncefleet is up')}; Ctrl-C stops it`);
  screen.item(`API         ${api.origin}/v1/jobs  (described in ${api.origin}/openapi.json)`);
  screen.item(`Bull Board  ${api.origin}/admin/queues`);
  screen.item(`Processes   ${[web, ...workers].map(({ name, child }) => `${name} (pid ${child.pid})`).join(', ')}`);
  screen.item(`Logs        tail -f ${join(relative(ROOT, folder), 'logs', '*.log')}`);
  screen.line();
  screen.line('In another terminal:');
  command(`${cli} ingest node_modules/pino/docs --collection pino`);
  command(`${cli} ask "How do I redact passwords?" --collection pino`);
  command(`curl -s ${api.origin}/v1/jobs`);
  screen.line('DATABASE_URL and REDIS_URL for a shell:');
  command(`set -a; . ${relative(ROOT, SETTINGS)}; set +a`);
}

/** One `npm run dev` a clone: two would share one data folder. */
async function takeLock(): Promise<void> {
  await takeFolder(HOME, 0o755);
  const holder = Number(readForeignFile(LOCK) ?? '');
  if (holder > 0 && holder !== process.pid && isDev(holder)) {
    throw new Error(
      `npm run dev is already running here (process ${holder}); its settings are in ${relative(ROOT, SETTINGS)}`,
    );
  }
  writeOwnFile(LOCK, `${process.pid}\n`, 0o644);
  closers.push(() => rm(LOCK, { force: true }));
}

/** After a reboot the pid may be anybody's; where there is /proc, it says whose. */
function isDev(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('scripts/dev.ts');
  } catch {
    return true;
  }
}

async function choosePort(host: string): Promise<number> {
  const port = given('PORT');
  if (port !== undefined && port !== '0') {
    // Anything that is no port is left for the configuration to report.
    if (/^\d+$/.test(port) && !(await isPortFree(Number(port), host)))
      throw new Error(`PORT=${port} is taken; choose another, or leave PORT unset for a free one`);
    return Number(port);
  }
  return port === undefined && (await isPortFree(DEFAULT_PORT, host)) ? DEFAULT_PORT : findFreePort();
}

/** Has passwords in it. */
function writeSettings(settings: Partial<Record<(typeof DEV_SETTINGS)[number], string>>): void {
  writeOwnFile(SETTINGS, formatSettings(settings));
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'oncefleet-dev-'));
  watchdog.remove(folder);
  closers.push(() => watchdog.removeNow(folder));
  return folder;
}

function unsetOnly(settings: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(settings).filter(([name]) => given(name) === undefined));
}

function given(name: string): string | undefined {
  const value = process.env[name]?.trim();
  return value === '' ? undefined : value;
}
