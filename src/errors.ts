/**
 * Every error this package raises on purpose.
 *
 * A class exists where some caller branches on it; the rest are an `OncefleetError` with
 * its own `code`. Codes are stable: they appear in problem+json bodies, in CLI output, in
 * the `error` event of a stream and in docs/reference/errors.md, which a test holds to this list.
 */

/** What each code means, in the words the docs use. The order is the docs' order. */
export const ERROR_CODES = {
  CONFIG_INVALID: 'The environment does not make a valid configuration.',
  INPUT_INVALID: 'Input does not fit the schema of the job, route, command or call.',
  OUTPUT_INVALID: 'The handler returned something its output schema refuses.',
  JOB_NAME_UNKNOWN: 'No job of that name is registered.',
  JOB_NOT_FOUND: 'No job of that id in this tenant.',
  COLLECTION_NOT_FOUND: 'No collection of that name in this tenant.',
  DOCUMENT_NOT_FOUND: 'No document or chunk of that id or path in the collection.',
  SCHEDULE_NOT_FOUND: 'No schedule of that name in this tenant.',
  JOB_NOT_FAILED: 'Only a failed job can be redriven.',
  ACTION_REFUSED: 'The state of the job or queue does not allow this.',
  KEY_INVALID: 'The idempotency key is empty, longer than 255 bytes or has control characters.',
  TRANSACTION_INVALID: 'What was given as tx is no open transaction.',
  LIMIT_KEY_INVALID: 'The key function of a limit threw, or returned what is no key.',
  KEY_MISMATCH: 'The idempotency key was used before with another input.',
  CURSOR_INVALID: 'The cursor is not one of this stream, or lies beyond its end.',
  STREAM_EXPIRED: 'The events at this cursor are past their retention and gone.',
  EVENT_INVALID: 'The event cannot be journalled: no type, a reserved type, not JSON, too deep or too large.',
  STREAM_CLOSED: 'The stream has its terminal event, or its run is over.',
  JOURNAL_REFUSED: 'Postgres refused an event as data.',
  LEASE_LOST: 'The lease of this run is lost; nothing it writes is accepted any more.',
  WRITE_DROPPED: 'Postgres took a write of a run that has its lease, and changed nothing.',
  LEASE_HELD: 'Another owner holds a live lease on the job.',
  DELIVERY_REFUSED: 'BullMQ delivered the job under another name or tenant than its row has.',
  CANCELLED: 'The job was cancelled.',
  TIMEOUT: 'The attempt ran longer than its timeout.',
  DEADLINE_EXCEEDED: 'The job was not finished by its deadline.',
  POISONED: 'The job crashed or lost its worker more often than maxCrashes allows.',
  NON_RETRYABLE: 'The handler said that trying again is pointless.',
  HANDLER_ERROR: 'The handler threw.',
  WAIT_TIMEOUT: 'Waiting ended before the job did; the job continues.',
  STORE_UNAVAILABLE: 'Postgres cannot be reached.',
  BUSY: 'This process has as much to do at once as it may have.',
  SCHEMA_OUTDATED: 'The database has not all migrations of this build.',
  SCHEMA_NEWER: 'The database was migrated by a newer build.',
  SCHEMA_ELSEWHERE: 'The tables are where an older release put them, not in the schema of this one.',
  SCHEMA_FORBIDDEN: 'The database role may not make or change what a migration needs.',
  FILE_UNREADABLE: 'A file or folder cannot be read.',
  FILE_EMPTY: 'A file has no text in it.',
  DOCUMENT_KIND_UNSUPPORTED: 'The document is of a kind that is not read.',
  DOCUMENT_DAMAGED: 'The document is damaged, cut off, or not what its name says.',
  DOCUMENT_ENCRYPTED: 'The document cannot be read without a password.',
  DOCUMENT_SCANNED: 'The document has pages, but no text: its pages are images.',
  DOCUMENT_TOO_LARGE: 'The document, or what it expands to, is over a limit.',
  DOCUMENT_TOO_COSTLY: 'Reading the document took more time or memory than it may.',
  NOTHING_TO_INGEST: 'No document was found to ingest.',
  BODY_INVALID: 'The request body is not valid JSON.',
  BODY_TOO_LARGE: 'The request body is over the limit.',
  UPLOADS_FULL: 'As many bytes of documents wait for their jobs as this tenant may have stored.',
  MEDIA_TYPE_UNSUPPORTED: 'The request body has a content type this route does not read.',
  REQUEST_STALLED: 'The request did not arrive in time.',
  ROUTE_NOT_FOUND: 'No such route.',
  METHOD_NOT_ALLOWED: 'The route exists, but not for this method.',
  UNAUTHORIZED: 'A valid token is needed.',
  SCOPE_MISSING: 'The token may not do this.',
  TOKEN_NOT_FOUND: 'No API token has that id.',
  TOO_MANY_REQUESTS: 'This caller has asked more often than it may.',
  ORIGIN_REFUSED: 'A web page of another origin may not do this.',
  HOST_UNKNOWN: 'The server does not answer under this name.',
  SHUTTING_DOWN: 'This process is closing.',
  POSTGRES_UNUSABLE: 'Postgres is there, and a setting of the server, the database or the role breaks what is needed.',
  REDIS_UNUSABLE: 'Redis is there and refuses what is needed: rights, role, version or mode.',
  SERVICE_MISSING: 'A service this command needs is not installed or not reachable.',
  MODEL_FAILED: 'The model server refused the request or broke off.',
  EVAL_FAILED: 'Questions found less than was asked for (oncefleet eval).',
  TORTURE_FAILED: 'A handler broke an invariant under torture (oncefleet/testing).',
  INTERNAL: 'An error nobody planned for; the log has it.',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface OncefleetErrorOptions {
  cause?: unknown;
  /** Safe to show and log: ids, limits, field paths. Never payloads, keys' inputs or tokens. */
  details?: Record<string, unknown>;
}

export class OncefleetError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: OncefleetErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = new.target.name;
    this.code = code;
    this.details = options.details ?? {};
  }
}

export interface Issue {
  /** Where, as `a.b[2].c`; empty for the value itself. */
  path: string;
  message: string;
}

/** Problems that one error names. */
export const MAX_ISSUES = 20;
/** Characters of a path and of a message: a key may be a megabyte long, and a message may list keys. */
const MAX_PATH_LENGTH = 200;
const MAX_ISSUE_LENGTH = 1_000;

/** Input that fails a schema: its first problems, each with its field's path, and how many there are. */
export class InputInvalidError extends OncefleetError {
  /** The first 20. */
  readonly issues: readonly Issue[];
  /** How many were found. An input that is wrong in many places is not searched to its end. */
  readonly issueCount: number;

  /** @param count where there are more than are given */
  constructor(what: string, issues: readonly Issue[], code: ErrorCode = 'INPUT_INVALID', count = issues.length) {
    const shown = issues.slice(0, MAX_ISSUES).map(({ path, message }) => ({
      path: cutText(path, MAX_PATH_LENGTH),
      message: cutText(message, MAX_ISSUE_LENGTH),
    }));
    const list = shown.map((issue) => (issue.path === '' ? issue.message : `${issue.path}: ${issue.message}`));
    const more = count > shown.length ? [`and ${count - shown.length} more`] : [];
    super(code, `${what}: ${[...list, ...more].join('; ')}`, { details: { issues: shown, issueCount: count } });
    this.issues = shown;
    this.issueCount = count;
  }
}

type ZodIssues = readonly { path: readonly PropertyKey[]; message: string }[];

/** What zod says of an input, as ours. */
export function inputInvalid(what: string, issues: ZodIssues, code?: ErrorCode): InputInvalidError {
  return new InputInvalidError(what, toIssues(issues), code, issues.length);
}

/** The first zod issues as ours. */
export function toIssues(issues: ZodIssues): Issue[] {
  return issues.slice(0, MAX_ISSUES).map((issue) => ({ path: formatPath(issue.path), message: issue.message }));
}

function formatPath(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? String(part) : `.${String(part)}`;
    if (text.length > MAX_PATH_LENGTH) break;
  }
  return text;
}

function cutText(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

/** The lease is lost: the run's signal aborts with this, and no later write is accepted. */
export class LeaseLostError extends OncefleetError {
  readonly jobId: string;
  readonly fence: number;
  /** It was not renewed in time, and may still be the run's; else a statement found the row at another fence. */
  readonly expired: boolean;

  constructor(
    jobId: string,
    fence: number,
    why: string,
    { expired = false, ...options }: OncefleetErrorOptions & { expired?: boolean } = {},
  ) {
    super('LEASE_LOST', `Lease of job ${jobId} at fence ${fence} is lost: ${why}`, {
      ...options,
      details: { jobId, fence, ...options.details },
    });
    this.jobId = jobId;
    this.fence = fence;
    this.expired = expired;
  }
}

/** The abort reason of a cancelled run. */
export class CancelledError extends OncefleetError {
  constructor(jobId: string) {
    super('CANCELLED', `Job ${jobId} was cancelled`, { details: { jobId } });
  }
}

/** The abort reason of a run that a deploy or shutdown interrupts; it is run again elsewhere. */
export class InterruptedError extends OncefleetError {
  constructor(jobId: string) {
    super('SHUTTING_DOWN', `Job ${jobId} is interrupted: its worker is closing`, { details: { jobId } });
  }
}

/** Thrown by handlers: this attempt failed and another would too. */
export class NonRetryableError extends OncefleetError {
  constructor(message: string, options: OncefleetErrorOptions & { code?: ErrorCode } = {}) {
    super(options.code ?? 'NON_RETRYABLE', message, options);
  }
}

/** What may be wrong with one document, and not with what reads it. */
export const DOCUMENT_ERROR_CODES = [
  'FILE_UNREADABLE',
  'FILE_EMPTY',
  'DOCUMENT_KIND_UNSUPPORTED',
  'DOCUMENT_DAMAGED',
  'DOCUMENT_ENCRYPTED',
  'DOCUMENT_SCANNED',
  'DOCUMENT_TOO_LARGE',
  'DOCUMENT_TOO_COSTLY',
] as const satisfies readonly ErrorCode[];

export type DocumentErrorCode = (typeof DOCUMENT_ERROR_CODES)[number];

/** A document that cannot be read, and could not be read again: others beside it can. Its message is read after its path. */
export class DocumentError extends OncefleetError {
  declare readonly code: DocumentErrorCode;

  constructor(code: DocumentErrorCode, message: string, options: OncefleetErrorOptions = {}) {
    super(code, message, options);
  }
}

/** For what an error says when to try again: the job alone, all jobs of its limits' keys, or all of its queue. */
export type RetryScope = 'job' | 'key' | 'queue';

/** Thrown by handlers: try again, but not before `retryAfterMs`; with a `scope`, no other job of its key or queue either. */
export class RetryAfterError extends OncefleetError {
  readonly retryAfterMs: number;
  /** Default `job`. `key` of a job whose definition has no limits is `job`. */
  readonly scope: RetryScope;

  constructor(
    message: string,
    retryAfterMs: number,
    options: OncefleetErrorOptions & { code?: ErrorCode; scope?: RetryScope } = {},
  ) {
    super(options.code ?? 'HANDLER_ERROR', message, { ...options, details: { ...options.details, retryAfterMs } });
    this.retryAfterMs = retryAfterMs;
    this.scope = options.scope ?? 'job';
  }
}

/** What `handle.result()` throws when the job ended without a result. */
export class JobFailedError extends OncefleetError {
  readonly jobId: string;
  readonly status: 'failed' | 'cancelled';

  constructor(jobId: string, status: 'failed' | 'cancelled', failure: StoredFailure) {
    super(failure.code, failure.message, { details: { jobId, status } });
    this.jobId = jobId;
    this.status = status;
  }
}

/** An error as `jobs.error`, the `error` event and the API show it. No stack, no payload. */
export interface StoredFailure {
  code: ErrorCode;
  message: string;
}

const MAX_MESSAGE_LENGTH = 2_000;

/**
 * Any thrown value as an error that can be read: itself, if it is one.
 *
 * Handlers throw strings, objects without a prototype, proxies and errors whose message is
 * no string; whoever looks at them must not fail over them.
 */
export function asError(thrown: unknown): Error {
  try {
    if (thrown instanceof Error && typeof thrown.message === 'string' && typeof thrown.name === 'string') return thrown;
  } catch {
    // Not even that can be asked.
  }
  return new Error(messageOf(thrown));
}

/** What a thrown value says of itself, whatever it is: handlers throw objects that refuse to be read. */
function messageOf(error: unknown): string {
  try {
    const message: unknown = error instanceof Error ? error.message || error.name : error;
    return typeof message === 'object' && message !== null ? JSON.stringify(message) : String(message);
  } catch {
    return 'a value was thrown that cannot be turned into text';
  }
}

/** Any thrown value as a stored failure; foreign errors get `HANDLER_ERROR`. */
export function toStoredFailure(error: unknown): StoredFailure {
  const code = error instanceof OncefleetError ? error.code : 'HANDLER_ERROR';
  const message = messageOf(error);
  return { code, message: cutText(message, MAX_MESSAGE_LENGTH) };
}
