/** The configuration of a command: the environment, and a `.env` file in the working directory. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { type Config, loadConfig } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import type { CliContext } from './context.ts';

/**
 * @param overrides what options of the command say; they win
 * @throws InputInvalidError CONFIG_INVALID, every problem at once
 */
export function readSettings(context: CliContext, overrides: Record<string, string | undefined> = {}): Config {
  readEnvFile(context.cwd);
  return loadConfig({ ...context.env, ...definedOnly(overrides) });
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

function definedOnly(overrides: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(overrides).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
