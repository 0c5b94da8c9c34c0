/** What went wrong at the model server, in words that may be shown and logged: no request, no headers, no key. */
import { NonRetryableError, OncefleetError, RetryAfterError } from '../../../errors.ts';
import type { ModelTarget } from '../../../model-settings.ts';

/** Of a server's own words; more is usually a page of HTML. */
const MAX_SERVER_MESSAGE_LENGTH = 300;
/** A server that asks for more is asked again after this all the same. */
const MAX_RETRY_AFTER_MS = 3_600_000;
/** Statuses below 500 that may pass by themselves. */
const TRANSIENT_STATUSES: ReadonlySet<number> = new Set([408, 409, 425, 429]);
/** A 429 with one of these does not pass: somebody has to pay first. */
const QUOTA_CODES: ReadonlySet<string> = new Set([
  'insufficient_quota',
  'billing_hard_limit_reached',
  'billing_not_active',
  'access_terminated',
  'account_deactivated',
]);

/** A request that came to nothing. */
export class ModelFault extends Error {
  /** What the job fails with, if this is the end of it. */
  readonly error: OncefleetError;
  /** The same request may succeed soon, and this one has probably cost nothing. */
  readonly isPassing: boolean;

  constructor(error: OncefleetError, isPassing: boolean) {
    super(error.message);
    this.error = error;
    this.isPassing = isPassing;
  }
}

/** The answer was begun or is lost; another request may fare better. */
export function brokenOff(message: string): ModelFault {
  return new ModelFault(new OncefleetError('MODEL_FAILED', message), false);
}

/** The same request would end the same way. */
export function hopeless(message: string, details?: Record<string, unknown>): ModelFault {
  const options = details === undefined ? {} : { details };
  return new ModelFault(new NonRetryableError(message, { ...options, code: 'MODEL_FAILED' }), false);
}

/**
 * @param error what the AI SDK or `fetch` threw
 * @param target its key is kept out of the message
 * @param server what the message calls it
 */
export function toModelFault(error: unknown, target: ModelTarget, server = 'model server'): ModelFault {
  const own = ownFault(error);
  if (own !== undefined) return own;
  const call = asCallError(error);
  const words = serverMessage(error, target);
  const { status } = call;
  if (status === undefined) {
    // `{"error": …}` in mid-stream: the server's own words, where a network error has only its own.
    if (!(error instanceof Error) || error.name === 'AI_StreamProviderError')
      return passing(`The ${server} broke off${words === '' ? '' : `: ${words}`}`);
    const code = causeCode(error);
    return passing(`The ${server} cannot be reached or broke off${code === undefined ? '' : ` (${code})`}`);
  }
  const message = `The ${server} answered ${status}${words === '' ? '' : `: ${words}`}`;
  if (call.code !== undefined && QUOTA_CODES.has(call.code)) return hopeless(message, { status, reason: call.code });
  if (status < 500 && status >= 300 && !TRANSIENT_STATUSES.has(status)) return hopeless(message, { status });
  const options = { details: { status } };
  const retryAfterMs = parseRetryAfter(call.headers);
  if (retryAfterMs !== undefined)
    return new ModelFault(new RetryAfterError(message, retryAfterMs, { ...options, code: 'MODEL_FAILED' }), true);
  // A 200 that is no event stream is an answer of something that is no model server.
  return new ModelFault(new OncefleetError('MODEL_FAILED', message, options), status >= 300);
}

/** One of ours that the SDK has wrapped. */
function ownFault(error: unknown): ModelFault | undefined {
  for (let at: unknown = error, depth = 0; typeof at === 'object' && at !== null && depth < 5; depth++) {
    if (at instanceof ModelFault) return at;
    at = 'cause' in at ? at.cause : undefined;
  }
  return undefined;
}

function passing(message: string): ModelFault {
  return new ModelFault(new OncefleetError('MODEL_FAILED', message), true);
}

interface CallError {
  status: number | undefined;
  headers: Record<string, string> | undefined;
  /** `error.code` or `error.type` of the body. */
  code: string | undefined;
}

/** By shape: two versions of the SDK's error class in one tree would not be instances of each other. */
function asCallError(error: unknown): CallError {
  const { statusCode, responseHeaders, data } = (typeof error === 'object' && error !== null ? error : {}) as {
    statusCode?: unknown;
    responseHeaders?: Record<string, string>;
    data?: { error?: { code?: unknown; type?: unknown } | null } | null;
  };
  const named = [data?.error?.code, data?.error?.type].filter((value) => typeof value === 'string');
  return {
    status: typeof statusCode === 'number' ? statusCode : undefined,
    headers: responseHeaders,
    code: named.find((name) => QUOTA_CODES.has(name)) ?? named[0],
  };
}

function serverMessage(error: unknown, { apiKey }: ModelTarget): string {
  const raw =
    typeof error === 'object' && error !== null && 'message' in error
      ? String(error.message)
      : typeof error === 'string'
        ? error
        : '';
  const safe = apiKey === undefined || apiKey === '' ? raw : raw.replaceAll(apiKey, '[redacted]');
  // Servers echo a key's ends ("sk-…abcd"); nothing that looks like one is passed on.
  const text = safe
    .replace(/\b(?:[sp]k[-_]|Bearer\s+)[\w*.…-]{6,}/gi, '[redacted]')
    .replace(/\s+/g, ' ')
    .trim();
  return text.length > MAX_SERVER_MESSAGE_LENGTH ? `${text.slice(0, MAX_SERVER_MESSAGE_LENGTH)}…` : text;
}

/** `ECONNREFUSED` and the like, however deep. */
function causeCode(error: unknown): string | undefined {
  for (let at: unknown = error, depth = 0; typeof at === 'object' && at !== null && depth < 5; depth++) {
    if ('code' in at && typeof at.code === 'string' && /^[A-Z][A-Z0-9_]+$/.test(at.code)) return at.code;
    at = 'cause' in at ? at.cause : undefined;
  }
  return undefined;
}

/** Seconds or a date (RFC 9110); some servers say milliseconds apart. */
function parseRetryAfter(headers: Record<string, string> | undefined): number | undefined {
  const ms = Number(headers?.['retry-after-ms'] ?? Number.NaN);
  if (Number.isFinite(ms) && ms >= 0) return Math.min(ms, MAX_RETRY_AFTER_MS);
  const value = headers?.['retry-after']?.trim();
  if (value === undefined || value === '') return undefined;
  const after = /^\d+(?:\.\d+)?$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return Number.isNaN(after) ? undefined : Math.min(Math.max(0, Math.ceil(after)), MAX_RETRY_AFTER_MS);
}
