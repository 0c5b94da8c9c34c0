import { type Logger, type LoggerOptions, pino } from 'pino';
import { OncefleetError } from './errors.ts';
import { printableJson } from './printable.ts';

export type { Logger } from 'pino';

/** Where payloads, keys' inputs and tokens could hide in an object somebody logs. */
const REDACTED_PATHS = [
  'input',
  'result',
  'checkpoint',
  'events',
  'data',
  '*.input',
  '*.result',
  '*.checkpoint',
  'token',
  '*.token',
  'req.headers.authorization',
  'req.headers.cookie',
];

/** For `log.child` of a logger that somebody else made. */
export const ERROR_SERIALIZERS = { err: (error: unknown) => errorForLog(error) };

interface CreateLoggerOptions {
  level?: string;
  /** Which process this is: `web`, `worker`, `cli`. */
  process?: string;
  /** File descriptor; 2 keeps standard output free for a command's own output. */
  fd?: 1 | 2;
}

/** Causes and errors of an aggregate that are logged, from the outermost. */
const MAX_NESTED = 5;

/** Class 22 of Postgres, data exceptions: their messages quote the value. */
const DATA_EXCEPTION = /^22[0-9A-Z]{3}$/;

/**
 * An error as the log may hold it: its name, message, stack, code and causes, and of Postgres what says where it is. Not
 * the rest: Postgres puts rows into `detail` and `where`, drivers add statements and parameters, HTTP clients whole
 * requests. Quoted values in messages of Postgres, and what JSON.parse quotes, are left out.
 */
function errorForLog(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return depth === 0 ? error : typeof error;
  const { code, severity, table, constraint, routine, cause } = error as Error & Record<string, unknown>;
  const { message, stack } = withoutValues(error, code);
  const nested = depth < MAX_NESTED;
  const texts = Object.entries({ code, severity, table, constraint, routine }).filter(
    ([, value]) => typeof value === 'string' || typeof value === 'number',
  );
  return {
    type: error.name,
    message,
    stack,
    ...Object.fromEntries(texts),
    ...(error instanceof OncefleetError && Object.keys(error.details).length > 0 ? { details: error.details } : {}),
    ...(nested && cause instanceof Error ? { cause: errorForLog(cause, depth + 1) } : {}),
    ...(nested && error instanceof AggregateError
      ? { errors: error.errors.slice(0, MAX_NESTED).map((each) => errorForLog(each, depth + 1)) }
      : {}),
  };
}

function withoutValues(error: Error, code: unknown): { message: string; stack: string | undefined } {
  const { message, stack } = error;
  let shown = message;
  if (error instanceof SyntaxError) shown = 'not shown';
  else if (typeof code === 'string' && DATA_EXCEPTION.test(code)) shown = message.replace(/".*"/s, '"…"');
  if (shown === message) return { message, stack };
  return { message: shown, stack: stack?.replace(message, () => shown) };
}

/** The root logger of a process. Everything below it is a `child()` that binds ids. */
export function createLogger(options: CreateLoggerOptions = {}): Logger {
  const settings: LoggerOptions = {
    level: options.level ?? 'info',
    base: { pid: process.pid, ...(options.process === undefined ? {} : { process: options.process }) },
    redact: { paths: REDACTED_PATHS, censor: '[redacted]' },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: ERROR_SERIALIZERS,
    // A log may be read on a terminal, and errors of handlers quote what they were given.
    hooks: { streamWrite: printableJson },
  };
  return pino(settings, pino.destination({ fd: options.fd ?? 1, sync: false }));
}

/** For library users who pass no logger. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
