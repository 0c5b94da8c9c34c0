/**
 * Folders and files that this user alone writes. The servers run as another user where we are root, and that
 * user may put links into whatever it owns: nothing of ours is written below a folder that was given away,
 * and nothing is opened through a link.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs';
import { chmod, lchown, lstat, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OncefleetError } from '../../errors.ts';

/** Windows has neither of them. */
const { O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants;

/**
 * Makes the folder where it is not there.
 *
 * @throws OncefleetError SERVICE_MISSING it is a link, no folder, or another user's; a system error: it cannot be made
 */
export async function takeFolder(path: string, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await mkdir(path, { mode }).catch(ignoreExisting);
  const stats = await lstat(path);
  if (!stats.isDirectory()) throw refused(path, stats.isSymbolicLink() ? 'is a symbolic link' : 'is no folder');
  if (isForeign(stats))
    throw refused(path, `belongs to another user (uid ${stats.uid}), not to uid ${process.getuid?.()}`);
  // Also where the umask or an earlier build left it open to others.
  if ((stats.mode & 0o777) !== mode) await chmod(path, mode);
}

/**
 * Makes a folder in one of ours and gives it away; what is in it is the other user's from then on.
 *
 * @throws OncefleetError SERVICE_MISSING it is a link, or belongs to somebody else
 */
export async function giveFolder(path: string, to: { uid: number; gid: number } | undefined): Promise<void> {
  if (to === undefined) return takeFolder(path, 0o700);
  await mkdir(path, { mode: 0o700 }).catch(ignoreExisting);
  const stats = await lstat(path);
  if (!stats.isDirectory()) throw refused(path, stats.isSymbolicLink() ? 'is a symbolic link' : 'is no folder');
  if (isForeign(stats) && stats.uid !== to.uid) throw refused(path, `belongs to another user (uid ${stats.uid})`);
  // Its parent is ours, so that nobody puts a link in its place in between.
  await lchown(path, to.uid, to.gid);
}

/** Writes a new file in the place of whatever was there; a link is removed, not followed. */
export function writeOwnFile(path: string, content: string, mode = 0o600): void {
  rmSync(path, { force: true });
  // Exclusive: fails where something came in between.
  writeFileSync(path, content, { flag: 'wx', mode });
}

/**
 * Opens a file to append to. @returns its descriptor
 *
 * @throws OncefleetError SERVICE_MISSING it is a link, or not this user's alone
 */
export function openOwnLog(path: string): number {
  const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | O_NOFOLLOW | O_NONBLOCK;
  let file: number;
  try {
    file = openSync(path, flags, 0o600);
  } catch (error) {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true)
      throw refused(path, 'is a symbolic link');
    throw error;
  }
  const stats = fstatSync(file);
  if (stats.isFile() && stats.nlink === 1 && !isForeign(stats)) return file;
  closeSync(file);
  throw refused(path, 'is not a file of this user alone');
}

/** A file below a folder that was given away. @returns `undefined` where it is not there, a link or no file */
export function readForeignFile(path: string): string | undefined {
  let file: number | undefined;
  try {
    file = openSync(path, constants.O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    return fstatSync(file).isFile() ? readFileSync(file, 'utf8') : undefined;
  } catch {
    return undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function isForeign({ uid }: Stats): boolean {
  return process.getuid !== undefined && uid !== process.getuid();
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

function refused(path: string, why: string): OncefleetError {
  return new OncefleetError('SERVICE_MISSING', `${path} ${why}: remove it, or run the command as its owner`);
}
