/** Where private servers may live, and as whom. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { chmod, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OncefleetError } from '../../errors.ts';
import { watchdog } from './child.ts';
import { giveFolder, takeFolder } from './own-files.ts';

const LARGEST_UID = 2 ** 31 - 1;
/** Of `.oncefleet` and `.oncefleet/run`: the servers' user passes through them. */
const HOME_MODE = 0o755;

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

/**
 * A new folder under `<home>/run`, or a temp folder where there is no home or the servers' user cannot reach it.
 * It goes with this process. It stays ours, also as root: servers get folders of their own in it.
 *
 * @throws OncefleetError SERVICE_MISSING
 */
export async function createInstanceFolder(
  kind: string,
  identity: Identity | undefined,
  home: string | undefined,
): Promise<string> {
  for (const parent of [...(home === undefined ? [] : [join(home, 'run')]), tmpdir()]) {
    const folder = await tryCreate(parent, kind, home);
    if (folder === undefined) continue;
    watchdog.remove(folder);
    await openToPass(folder, identity);
    if (await canHoldData(folder, identity)) return folder;
    await watchdog.removeNow(folder);
  }
  throw new OncefleetError(
    'SERVICE_MISSING',
    `No folder for a private Postgres: ${home === undefined ? tmpdir() : `neither ${home} nor ${tmpdir()}`} can${home === undefined ? 'not' : ''} be written by ${identity?.name ?? 'this user'}; set DATABASE_URL and REDIS_URL, or TMPDIR`,
  );
}

async function tryCreate(parent: string, kind: string, home: string | undefined): Promise<string | undefined> {
  try {
    if (home !== undefined && parent.startsWith(home)) {
      await takeFolder(home, HOME_MODE);
      await takeFolder(parent, HOME_MODE);
    }
    return await mkdtemp(join(parent, `oncefleet-${kind}-`));
  } catch (error) {
    if (error instanceof OncefleetError) throw error;
    return undefined;
  }
}

/**
 * The folder that keeps its data between runs: `<home>/<name>`, or one named after the clone
 * in the temp folder when the servers' user cannot reach it.
 *
 * @throws OncefleetError SERVICE_MISSING, also where one of them is a link or another user's
 */
export async function createLastingFolder(name: string, identity: Identity | undefined, home: string): Promise<string> {
  const unreachable = join(
    tmpdir(),
    `oncefleet-${name}-${process.getuid?.() ?? 0}-${home.replace(/[^A-Za-z0-9]+/g, '-').slice(-60)}`,
  );
  for (const folder of [join(home, name), unreachable]) {
    try {
      if (folder !== unreachable) await takeFolder(home, HOME_MODE);
      await takeFolder(folder, 0o700);
      await openToPass(folder, identity);
    } catch (error) {
      if (error instanceof OncefleetError) throw error;
      continue;
    }
    if (await canHoldData(folder, identity)) return folder;
  }
  throw new OncefleetError(
    'SERVICE_MISSING',
    `No folder for a private Postgres: neither ${join(home, name)} nor ${unreachable} can be used by ${identity?.name ?? 'this user'}; set DATABASE_URL and REDIS_URL`,
  );
}

/** The servers' user gets through to what is its own, and sees nothing else. */
async function openToPass(folder: string, identity: Identity | undefined): Promise<void> {
  if (identity !== undefined) await chmod(folder, 0o711);
}

/** Asks with the folder that Postgres will have its data in. */
async function canHoldData(folder: string, identity: Identity | undefined): Promise<boolean> {
  const data = dataFolder(folder);
  await giveFolder(data, identity);
  return canReach(identity, data, 'write');
}

/** Postgres's data in the folder of one process. */
export function dataFolder(folder: string): string {
  return join(folder, 'postgres');
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
