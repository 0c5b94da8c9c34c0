/** The configuration of a command: the environment, then `.env`, then what `npm run dev` says of its servers. */
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { type Config, loadConfig } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import type { CliContext } from './context.ts';

/** Written by `npm run dev` (scripts/dev.ts) while it runs. */
const DEV_ENV = join('.oncefleet', 'dev.env');

/** All that `npm run dev` writes there. Nothing else is taken from it: not modules to run, nor where to listen. */
export const DEV_SETTINGS = [
  'DATABASE_URL',
  'REDIS_URL',
  'ONCEFLEET_PREFIX',
  'ONCEFLEET_LEASE_TTL_MS',
  'ONCEFLEET_HEARTBEAT_MS',
  'ONCEFLEET_RECONCILE_MS',
] as const;

/** Of `.env` too: they would have other programs run code. */
const LOADERS = /^(NODE_OPTIONS|LD_.*|DYLD_.*|BASH_ENV|ENV)$/;

/**
 * @param overrides what options of the command say; they win
 * @throws InputInvalidError CONFIG_INVALID, every problem at once
 */
export function readSettings(context: CliContext, overrides: Record<string, string | undefined> = {}): Config {
  readEnvFile(context);
  const ofDev = Object.entries(readDevEnv(context)).filter(([name]) => isBlank(context.env[name]));
  return loadConfig({ ...context.env, ...Object.fromEntries(ofDev), ...definedOnly(overrides) });
}

/** The system that `npm run dev` runs here. Nothing of it where a setting names another server: two systems must not mix. */
function readDevEnv({ cwd, env }: Pick<CliContext, 'cwd' | 'env'>): Record<string, string | undefined> {
  // Whoever names both servers asks for nothing from here.
  if (!isBlank(env.DATABASE_URL) && !isBlank(env.REDIS_URL) && !isOwn(join(cwd, DEV_ENV))) return {};
  const all = readOwn(cwd, DEV_ENV, constants.O_NOFOLLOW ?? 0);
  const settings = Object.fromEntries(DEV_SETTINGS.map((name) => [name, all[name]]));
  const isAnother = ['DATABASE_URL', 'REDIS_URL'].some(
    (name) => !isBlank(env[name]) && env[name]?.trim() !== settings[name],
  );
  return isAnother ? {} : settings;
}

/** Variables of `.env` that the environment does not set already; jobs' modules find their own among them. */
function readEnvFile({ cwd, env }: Pick<CliContext, 'cwd' | 'env'>): void {
  for (const [name, value] of Object.entries(readOwn(cwd, '.env', 0)))
    if (env[name] === undefined && !LOADERS.test(name)) env[name] = value;
}

/**
 * @returns nothing where the file is not there
 * @throws OncefleetError CONFIG_INVALID somebody else can write it, and could have this process run code or send
 *   documents to another server
 */
function readOwn(cwd: string, name: string, flags: number): Record<string, string | undefined> {
  let file: number | undefined;
  try {
    file = openSync(join(cwd, name), constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | flags);
    const stats = fstatSync(file);
    if (!stats.isFile()) return {};
    if (!isOfOwner(stats)) throw new Error(NOT_OURS);
    return parseEnv(readFileSync(file, 'utf8'));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return {};
    const why = code === 'ELOOP' ? 'it is a symbolic link' : message;
    throw new OncefleetError('CONFIG_INVALID', `${name} cannot be read: ${why}`, { cause });
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

const NOT_OURS =
  'another user can write it. If you trust it, read it into the environment yourself (set -a; . FILE; set +a)';

function isOwn(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  return stats !== undefined && !stats.isSymbolicLink() && isOfOwner(stats);
}

/** This user's or root's, and writable by nobody else. */
function isOfOwner({ uid, mode }: Stats): boolean {
  if (process.getuid === undefined) return true;
  return (uid === process.getuid() || uid === 0) && (mode & 0o002) === 0;
}

/** A variable set to blanks counts as unset. */
function isBlank(value: string | undefined): boolean {
  return value === undefined || value.trim() === '';
}

function definedOnly(overrides: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(overrides).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
