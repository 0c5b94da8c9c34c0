/** Where private servers may live, and as whom. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { chmod, chown, lstat, mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OncefleetError } from '../../errors.ts';
import { watchdog } from './child.ts';

const LARGEST_UID = 2 ** 31 - 1;

/** The user that runs the servers: Postgres declines to run as root. */
export interface Identity {
  name: string;
  uid: number;
  gid: number;
}

/**
 * `undefined`: as ourselves. As root, `nobody`, or else the first ordinary entry of
 * /etc/passwd (initdb looks its own uid up, so a number without an entry would not do).
 *
 * @throws OncefleetError SERVICE_MISSING root without any other user
 */
export function serviceIdentity(): Identity | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const entries = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .map(([name = '', , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }))
    .filter(({ name, uid, gid }) => name !== '' && uid > 0 && gid > 0 && uid <= LARGEST_UID && gid <= LARGEST_UID);
  const identity = entries.find((entry) => entry.name === 'nobody') ?? entries[0];
  if (identity === undefined) {
    throw new OncefleetError(
      'SERVICE_MISSING',
      'Postgres does not run as root, and there is no other user here: set DATABASE_URL',
    );
  }
  return identity;
}

/** Asks the kernel as that user, so that modes, groups and mounts of all parents count. */
export function canReach(identity: Identity | undefined, path: string, test: 'execute' | 'write'): boolean {
  const flag = test === 'execute' ? '-x' : '-w';
  const shell = spawnSync('/bin/sh', ['-c', `test ${flag} "$1"`, 'sh', path], {
    cwd: '/',
    stdio: 'ignore',
    ...(identity === undefined ? {} : { uid: identity.uid, gid: identity.gid }),
  });
  return shell.status === 0;
}

/** A new folder of ours under `<home>/run`, or a temp folder where there is no home or it cannot hold it. It goes with this process. */
export async function createInstanceFolder(
  kind: string,
  identity: Identity | undefined,
  home: string | undefined,
): Promise<string> {
  for (const parent of [...(home === undefined ? [] : [join(home, 'run')]), tmpdir()]) {
    const folder = await tryCreate(parent, kind);
    if (folder === undefined) continue;
    watchdog.remove(folder);
    if (identity !== undefined) await chown(folder, identity.uid, identity.gid);
    if (canReach(identity, folder, 'write')) return folder;
    await watchdog.removeNow(folder);
  }
  throw new OncefleetError(
    'SERVICE_MISSING',
    `No folder for a private Postgres: ${home === undefined ? tmpdir() : `neither ${home} nor ${tmpdir()}`} can${home === undefined ? 'not' : ''} be written by ${identity?.name ?? 'this user'}; set DATABASE_URL and REDIS_URL, or TMPDIR`,
  );
}

async function tryCreate(parent: string, kind: string): Promise<string | undefined> {
  try {
    await mkdir(parent, { recursive: true });
    return await mkdtemp(join(parent, `oncefleet-${kind}-`));
  } catch {
    return undefined;
  }
}

/**
 * The folder that keeps its data between runs: `<home>/<name>`, or one named after the clone
 * in the temp folder when the servers' user cannot reach it.
 */
export async function createLastingFolder(name: string, identity: Identity | undefined, home: string): Promise<string> {
  const unreachable = join(
    tmpdir(),
    `oncefleet-${name}-${process.getuid?.() ?? 0}-${home.replace(/[^A-Za-z0-9]+/g, '-').slice(-60)}`,
  );
  for (const folder of [join(home, name), unreachable]) {
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      if (!(await isOurs(folder, identity))) continue;
      await chmod(folder, 0o700);
      if (identity !== undefined) await chown(folder, identity.uid, identity.gid);
    } catch {
      continue;
    }
    if (canReach(identity, folder, 'write')) return folder;
  }
  throw new OncefleetError(
    'SERVICE_MISSING',
    `No folder for a private Postgres: neither ${join(home, name)} nor ${unreachable} can be used by ${identity?.name ?? 'this user'}; set DATABASE_URL and REDIS_URL`,
  );
}

/** Temp folders have predictable names: one that another user planted is not used. */
async function isOurs(folder: string, identity: Identity | undefined): Promise<boolean> {
  const stat = await lstat(folder);
  return (
    stat.isDirectory() &&
    (stat.uid === process.getuid?.() || stat.uid === identity?.uid || process.getuid === undefined)
  );
}

/** The first of `names` on PATH. */
export function findOnPath(...names: string[]): string | undefined {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(':')) {
      if (!folder.startsWith('/')) continue;
      const file = join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // Not here.
      }
    }
  }
  return undefined;
}
