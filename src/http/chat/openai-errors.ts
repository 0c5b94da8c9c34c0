/** Errors in the shape that OpenAI's clients read. */
import { type ErrorCode, InputInvalidError } from '../../errors.ts';

/** Codes that OpenAI's clients know by another name. */
const CODES: Partial<Record<ErrorCode, string>> = {
  UNAUTHORIZED: 'invalid_api_key',
  JOB_NAME_UNKNOWN: 'model_not_found',
  BUSY: 'rate_limit_exceeded',
  TOO_MANY_REQUESTS: 'rate_limit_exceeded',
};

interface OpenAiError {
  error: { message: string; type: string; code: string; param: string | null };
}

/** `BUSY` is a 429 there: its clients wait for as long as `retry-after` says. */
export function openAiStatus(code: ErrorCode, status: number): number {
  return code === 'BUSY' ? 429 : status;
}

export function toOpenAiError(error: unknown, code: ErrorCode, message: string, status: number): OpenAiError {
  const param = error instanceof InputInvalidError ? error.issues[0]?.path : undefined;
  return {
    error: { message, type: typeOf(status), code: CODES[code] ?? code, param: paramOf(code, param) },
  };
}

function paramOf(code: ErrorCode, path: string | undefined): string | null {
  if (path !== undefined && path !== '') return path;
  if (code === 'JOB_NAME_UNKNOWN') return 'model';
  return null;
}

function typeOf(status: number): string {
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}
