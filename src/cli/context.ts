/** What every command works with: the outside world, and the exit code it leaves. */
import type { ExitCode } from './exit-codes.ts';
import { createTerminal, type OutputStream, type Terminal } from './terminal.ts';

export interface CliContext {
  /** What `.env` says is added to it. */
  readonly env: Record<string, string | undefined>;
  readonly cwd: string;
  readonly stdin: AsyncIterable<Uint8Array>;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  /** Set by a command that ends well enough not to throw, yet not with 0. */
  exitCode: ExitCode;
}

export interface CommonOptions {
  json?: boolean;
}

export function terminalOf(context: CliContext, options: CommonOptions): Terminal {
  return createTerminal({
    stdout: context.stdout,
    stderr: context.stderr,
    json: options.json === true,
    env: context.env,
  });
}

/** Whether stacks and the fleet's own log lines are wanted on standard error. */
export function wantsDebug(env: CliContext['env']): boolean {
  return env.LOG_LEVEL === 'debug' || env.LOG_LEVEL === 'trace';
}
