/**
 * The one table of exit codes. `--help` and docs/reference/cli.md print it; a test holds the docs to it.
 */
import type { ErrorCode } from '../errors.ts';

export const EXIT_CODES = {
  0: 'Done. A job that was waited for or followed has completed.',
  1: 'The job failed, or a check did (eval); its error is printed.',
  2: 'Wrong usage, input, file or configuration. Nothing was enqueued.',
  3: 'No job, schedule, collection, document or token of that id or name, or events that are no longer kept.',
  4: 'Postgres, Redis or the schema is not there, or not what this build needs.',
  5: 'The job was cancelled.',
  6: 'In conflict with what is stored: a key used with another input, a job that has not failed.',
  7: 'Waiting ended (--timeout); the job continues.',
  8: 'Something is wrong that was not repaired (doctor).',
  70: 'An error nobody planned for. LOG_LEVEL=debug shows its stack.',
  130: 'Interrupted (Ctrl-C); a job that was followed continues.',
  141: 'Standard output was closed by its reader.',
  143: 'Terminated (SIGTERM); a job that was followed continues. Not of web, work and dev, which close and give 0.',
} as const;

export type ExitCode = keyof typeof EXIT_CODES;

/** What a command that could not do its work exits with. A job's own failure is 1 whatever its code: see errors in `report.ts`. */
export const EXIT_CODE_BY_ERROR: Readonly<Record<ErrorCode, ExitCode>> = {
  CONFIG_INVALID: 2,
  INPUT_INVALID: 2,
  OUTPUT_INVALID: 1,
  JOB_NAME_UNKNOWN: 3,
  JOB_NOT_FOUND: 3,
  COLLECTION_NOT_FOUND: 3,
  DOCUMENT_NOT_FOUND: 3,
  SCHEDULE_NOT_FOUND: 3,
  JOB_NOT_FAILED: 6,
  ACTION_REFUSED: 6,
  KEY_INVALID: 2,
  LIMIT_KEY_INVALID: 2,
  TRANSACTION_INVALID: 2,
  KEY_MISMATCH: 6,
  CURSOR_INVALID: 2,
  STREAM_EXPIRED: 3,
  EVENT_INVALID: 2,
  STREAM_CLOSED: 70,
  JOURNAL_REFUSED: 1,
  LEASE_LOST: 1,
  WRITE_DROPPED: 1,
  LEASE_HELD: 1,
  DELIVERY_REFUSED: 1,
  CANCELLED: 5,
  TIMEOUT: 1,
  DEADLINE_EXCEEDED: 1,
  POISONED: 1,
  NON_RETRYABLE: 1,
  HANDLER_ERROR: 1,
  WAIT_TIMEOUT: 7,
  EVAL_FAILED: 1,
  TORTURE_FAILED: 1,
  STORE_UNAVAILABLE: 4,
  BUSY: 4,
  SCHEMA_OUTDATED: 4,
  SCHEMA_NEWER: 4,
  SCHEMA_ELSEWHERE: 4,
  SCHEMA_FORBIDDEN: 4,
  FILE_UNREADABLE: 2,
  FILE_EMPTY: 2,
  DOCUMENT_KIND_UNSUPPORTED: 2,
  DOCUMENT_DAMAGED: 2,
  DOCUMENT_ENCRYPTED: 2,
  DOCUMENT_SCANNED: 2,
  DOCUMENT_TOO_LARGE: 2,
  DOCUMENT_TOO_COSTLY: 2,
  NOTHING_TO_INGEST: 2,
  BODY_INVALID: 2,
  BODY_TOO_LARGE: 2,
  UPLOADS_FULL: 4,
  MEDIA_TYPE_UNSUPPORTED: 2,
  METHOD_NOT_ALLOWED: 2,
  REQUEST_STALLED: 4,
  ROUTE_NOT_FOUND: 3,
  UNAUTHORIZED: 2,
  SCOPE_MISSING: 2,
  TOKEN_NOT_FOUND: 3,
  TOO_MANY_REQUESTS: 4,
  ORIGIN_REFUSED: 2,
  HOST_UNKNOWN: 2,
  SHUTTING_DOWN: 4,
  POSTGRES_UNUSABLE: 4,
  REDIS_UNUSABLE: 4,
  SERVICE_MISSING: 4,
  MODEL_FAILED: 1,
  INTERNAL: 70,
};

/** The table as help text. */
export function formatExitCodes(): string {
  return Object.entries(EXIT_CODES)
    .map(([code, meaning]) => `  ${code.padStart(3)}  ${meaning}`)
    .join('\n');
}
