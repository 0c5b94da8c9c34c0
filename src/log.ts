import { type Logger, type LoggerOptions, pino } from 'pino';
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

interface CreateLoggerOptions {
  level?: string;
  /** Which process this is: `web`, `worker`, `cli`. */
  process?: string;
  /** File descriptor; 2 keeps standard output free for a command's own output. */
  fd?: 1 | 2;
}

/** The root logger of a process. Everything below it is a `child()` that binds ids. */
export function createLogger(options: CreateLoggerOptions = {}): Logger {
  const settings: LoggerOptions = {
    level: options.level ?? 'info',
    base: { pid: process.pid, ...(options.process === undefined ? {} : { process: options.process }) },
    redact: { paths: REDACTED_PATHS, censor: '[redacted]' },
    timestamp: pino.stdTimeFunctions.isoTime,
    // A log may be read on a terminal, and errors of handlers quote what they were given.
    hooks: { streamWrite: printableJson },
  };
  return pino(settings, pino.destination({ fd: options.fd ?? 1, sync: false }));
}

/** For library users who pass no logger. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
