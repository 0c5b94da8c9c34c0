/** The configuration of a command: the environment, then `.env`, then what `npm run dev` says of its servers. */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { type Config, loadConfig } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import type { CliContext } from './context.ts';

/** Written by `npm run dev` (scripts/dev.ts) while it runs. */
const DEV_ENV = join('.oncefleet', 'dev.env');

/**
 * @param overrides what options of the command say; they win
 * @throws InputInvalidError CONFIG_INVALID, every problem at once
 */
export function readSettings(context: CliContext, overrides: Record<string, string | undefined> = {}): Config {
  readEnvFile(context.cwd);
  const ofDev = Object.entries(readDevEnv(context)).filter(([name]) => isBlank(context.env[name]));
  return loadConfig({ ...context.env, ...Object.fromEntries(ofDev), ...definedOnly(overrides) });
}

/** The system that `npm run dev` runs here. Nothing of it where a setting names another server: two systems must not mix. */
function readDevEnv({ cwd, env }: Pick<CliContext, 'cwd' | 'env'>): Record<string, string | undefined> {
  const file = join(cwd, DEV_ENV);
  if (statSync(file, { throwIfNoEntry: false })?.isFile() !== true) return {};
  let settings: Record<string, string | undefined>;
  try {
    settings = parseEnv(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new OncefleetError('CONFIG_INVALID', `${DEV_ENV} cannot be read: ${(cause as Error).message}`, { cause });
  }
  const isAnother = ['DATABASE_URL', 'REDIS_URL'].some(
    (name) => !isBlank(env[name]) && env[name]?.trim() !== settings[name],
  );
  return isAnother ? {} : settings;
}

/** Variables of `.env` that the environment does not set already. */
function readEnvFile(cwd: string): void {
  const file = join(cwd, '.env');
  if (statSync(file, { throwIfNoEntry: false })?.isFile() !== true) return;
  try {
    process.loadEnvFile(file);
  } catch (cause) {
    throw new OncefleetError('CONFIG_INVALID', `.env cannot be read: ${(cause as Error).message}`, { cause });
  }
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
