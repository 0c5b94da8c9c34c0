/** From anything thrown to one line on standard error and an exit code. */
import { CommanderError } from 'commander';
import { isTransient } from '../db/transient.ts';
import { JobFailedError, OncefleetError } from '../errors.ts';
import { EXIT_CODE_BY_ERROR, type ExitCode } from './exit-codes.ts';
import { type OutputStream, say } from './terminal.ts';

/** Ctrl-C or SIGTERM ended a command that was only watching; the message says what continues and how to watch again. */
export class CommandInterruptedError extends OncefleetError {
  readonly exitCode: ExitCode;
  readonly #signal: NodeJS.Signals;

  constructor(signal: NodeJS.Signals, message: string, details: Record<string, unknown> = {}) {
    super('WAIT_TIMEOUT', message, { details: { ...details, signal } });
    this.exitCode = signal === 'SIGTERM' ? 143 : 130;
    this.#signal = signal;
  }

  withMessage(message: string): CommandInterruptedError {
    return new CommandInterruptedError(this.#signal, message, this.details);
  }
}

interface ReportOptions {
  stderr: OutputStream;
  json: boolean;
  /** Also the stack, for people who debug. */
  debug: boolean;
}

/** Writes the error and gives the exit code. */
export function reportError(thrown: unknown, { stderr, json, debug }: ReportOptions): ExitCode {
  if (isClosedOutput(thrown)) return 141;
  const error = toCommandError(thrown);
  if (json) {
    const { code, message, details } = error;
    say(stderr, { json: JSON.stringify({ error: { code, message, details } }) });
  } else if (error instanceof CommandInterruptedError) {
    say(stderr, { line: error.message });
  } else {
    say(stderr, { line: `error ${error.code}: ${error.message}` });
  }
  if (debug && !json) say(stderr, { text: `${formatStack(thrown)}\n` });
  return exitCodeOf(error);
}

function exitCodeOf(error: OncefleetError): ExitCode {
  if (error instanceof CommandInterruptedError) return error.exitCode;
  // A job may fail with any code its handler chose, also one that means something else here.
  if (error instanceof JobFailedError) return error.status === 'cancelled' ? 5 : 1;
  return EXIT_CODE_BY_ERROR[error.code];
}

/** Errors of commander, pg, ioredis and the system in this package's codes. */
export function toCommandError(thrown: unknown): OncefleetError {
  if (thrown instanceof OncefleetError) return thrown;
  if (thrown instanceof CommanderError)
    return new OncefleetError('INPUT_INVALID', usageMessage(thrown), { cause: thrown });
  const code = codeOf(thrown);
  if (isRedisError(thrown))
    return new OncefleetError('SERVICE_MISSING', `Redis cannot be reached: ${messageOf(thrown)}`, { cause: thrown });
  if (code === '42P01') {
    return new OncefleetError('SCHEMA_OUTDATED', 'The database lacks a table of this build: run `oncefleet migrate`', {
      cause: thrown,
    });
  }
  if (isTransient(thrown) || isRefusedConnection(code)) {
    return new OncefleetError('STORE_UNAVAILABLE', `Postgres cannot be reached: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
  return new OncefleetError('INTERNAL', messageOf(thrown), { cause: thrown });
}

/** Wrong password or user (class 28), no such database (3D000), too old a protocol: reached, yet of no use. */
function isRefusedConnection(code: string | undefined): boolean {
  return code !== undefined && (/^28[0-9A-Z]{3}$/.test(code) || code === '3D000' || code === '42501');
}

function isRedisError(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return false;
  return /^(MaxRetriesPerRequestError|ClusterAllFailedError|ReplyError|RedisError|AbortError)$/.test(thrown.name) &&
    !('severity' in thrown)
    ? true
    : thrown.message === 'Connection is closed.';
}

/** The reader of a pipe went away (`| head`): nothing to report, and nobody to report it to. */
function isClosedOutput(thrown: unknown): boolean {
  return (
    codeOf(thrown) === 'EPIPE' &&
    (thrown as NodeJS.ErrnoException).syscall === 'write' &&
    !('address' in (thrown as object))
  );
}

function codeOf(thrown: unknown): string | undefined {
  const code = (thrown as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

function messageOf(thrown: unknown): string {
  // Trying both addresses of `localhost` fails with an AggregateError that has no message of its own.
  if (thrown instanceof AggregateError && thrown.message === '') return thrown.errors.map(messageOf).join('; ');
  if (thrown instanceof Error) return thrown.message || thrown.name;
  return String(thrown);
}

function usageMessage(error: CommanderError): string {
  return error.message
    .replace(/^error: /, '')
    .replace(/^command-argument value ('.*') is invalid for argument '(.*?)'\./s, '$1 is not a valid $2.')
    .replace(/\n/g, ' ');
}

function formatStack(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  const cause = thrown.cause === undefined ? '' : `\ncaused by ${formatStack(thrown.cause)}`;
  return `${thrown.stack ?? thrown.message}${cause}`;
}
