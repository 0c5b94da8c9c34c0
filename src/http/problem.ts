/** Errors as HTTP shows them: RFC 9457 `application/problem+json` with a stable `code`. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { isPoolTaken, isTransient } from '../db/transient.ts';
import { ERROR_CODES, type ErrorCode, InputInvalidError, OncefleetError } from '../errors.ts';
import { openAiStatus, toOpenAiError } from './chat/openai-errors.ts';

export const PROBLEM_CONTENT_TYPE = 'application/problem+json';

/**
 * Status of each code that HTTP can answer with. A mismatch is 422 and never 409: the
 * OpenAI SDK retries a 409 by itself.
 */
export const HTTP_STATUS = {
  INPUT_INVALID: 400,
  KEY_INVALID: 400,
  LIMIT_KEY_INVALID: 400,
  CURSOR_INVALID: 400,
  EVENT_INVALID: 400,
  BODY_INVALID: 400,
  UNAUTHORIZED: 401,
  SCOPE_MISSING: 403,
  ORIGIN_REFUSED: 403,
  JOB_NAME_UNKNOWN: 404,
  JOB_NOT_FOUND: 404,
  COLLECTION_NOT_FOUND: 404,
  DOCUMENT_NOT_FOUND: 404,
  SCHEDULE_NOT_FOUND: 404,
  ROUTE_NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  REQUEST_STALLED: 408,
  JOB_NOT_FAILED: 409,
  ACTION_REFUSED: 409,
  STREAM_EXPIRED: 410,
  BODY_TOO_LARGE: 413,
  MEDIA_TYPE_UNSUPPORTED: 415,
  HOST_UNKNOWN: 421,
  KEY_MISMATCH: 422,
  UPLOADS_FULL: 429,
  TOO_MANY_REQUESTS: 429,
  INTERNAL: 500,
  STORE_UNAVAILABLE: 503,
  BUSY: 503,
  SCHEMA_OUTDATED: 503,
  SCHEMA_NEWER: 503,
  SCHEMA_ELSEWHERE: 503,
  SCHEMA_FORBIDDEN: 503,
  POSTGRES_UNUSABLE: 503,
  REDIS_UNUSABLE: 503,
  SERVICE_MISSING: 503,
  SHUTTING_DOWN: 503,
} as const satisfies Partial<Record<ErrorCode, number>>;

type HttpErrorCode = keyof typeof HTTP_STATUS;

/** How long a caller should wait after a 503, in seconds. */
const RETRY_AFTER_S = 5;

export const problemSchema = z.object({
  type: z.string().describe('`urn:oncefleet:error:` and the code.'),
  title: z.string().describe('What the code means.'),
  status: z.int(),
  code: z
    .enum(Object.keys(HTTP_STATUS) as [HttpErrorCode, ...HttpErrorCode[]])
    .describe('Stable; see docs/reference/errors.md.'),
  detail: z.string().describe('What is wrong with this request.'),
  issues: z
    .array(
      z.object({
        path: z.string().describe('Where in the input, as `a.b[2].c`; empty for the whole.'),
        message: z.string(),
      }),
    )
    .optional()
    .describe('The first problems of an input that fails its schema, 20 at most.'),
  issueCount: z.int().optional().describe('How many problems were found.'),
  requestId: z.string().describe('The `x-request-id` of this answer; the log has it too.'),
});

type Problem = z.infer<typeof problemSchema>;

/** The problem that shows an error. Errors nobody planned for say nothing about themselves. */
export function toProblem(error: unknown, requestId: string): Problem {
  const known = toHttpError(error);
  const code = known.code as HttpErrorCode;
  return {
    type: `urn:oncefleet:error:${code}`,
    title: ERROR_CODES[code],
    status: HTTP_STATUS[code],
    code,
    detail: known.message,
    ...(known instanceof InputInvalidError
      ? { issues: known.issues.map(({ path, message }) => ({ path, message })), issueCount: known.issueCount }
      : {}),
    requestId,
  };
}

/** Answers with the problem and its extra members; logs what an operator must see, without payloads. */
export function sendProblem(
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  extra: Readonly<Record<string, string>> = {},
): void {
  const problem = toProblem(error, request.id);
  if (problem.code === 'INTERNAL') request.log.error({ err: loggableError(error) }, 'request failed');
  else if (problem.status >= 500 && problem.code !== 'SHUTTING_DOWN')
    request.log.warn({ code: problem.code, err: loggableError(error) }, 'request refused');
  if (problem.status === 503) reply.header('retry-after', RETRY_AFTER_S);
  if (request.routeOptions.config.errors === 'openai') {
    const status = openAiStatus(problem.code, problem.status);
    const body = toOpenAiError(error, problem.code, problem.detail, status);
    reply
      .code(status)
      .type('application/json')
      .send(Buffer.from(JSON.stringify(body)));
    return;
  }
  // A string would get a charset parameter, which this media type does not have.
  reply
    .code(problem.status)
    .type(PROBLEM_CONTENT_TYPE)
    .send(Buffer.from(JSON.stringify({ ...problem, ...extra })));
}

/** Response schemas of a route: each status with the codes it stands for. */
export function problemResponses(...codes: HttpErrorCode[]): Record<number, unknown> {
  const byStatus = Map.groupBy(
    [...new Set<HttpErrorCode>([...codes, 'TOO_MANY_REQUESTS', 'INTERNAL'])],
    (code) => HTTP_STATUS[code],
  );
  return Object.fromEntries(
    [...byStatus].map(([status, group]) => [
      status,
      {
        description: group.map((code) => `\`${code}\`: ${ERROR_CODES[code]}`).join(' '),
        content: { [PROBLEM_CONTENT_TYPE]: { schema: problemSchema } },
      },
    ]),
  );
}

/**
 * An error as the log may hold it. Postgres puts rows into `detail` and `where`, and V8
 * puts the text it could not parse into the message of a SyntaxError.
 */
export function loggableError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { name: typeof error };
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return {
    name: error.name,
    message: error instanceof SyntaxError ? 'not shown' : error.message,
    ...(typeof code === 'string' ? { code } : {}),
    stack: error instanceof SyntaxError ? undefined : error.stack,
    ...(cause instanceof Error ? { cause: loggableError(cause) } : {}),
  };
}

/** Any thrown value as an error whose code has a status. */
function toHttpError(error: unknown): OncefleetError {
  if (error instanceof OncefleetError && error.code in HTTP_STATUS && error.code !== 'INTERNAL') return error;
  const fastify = fastifyError(error);
  if (fastify !== undefined) return fastify;
  if (isPoolTaken(error)) {
    return new OncefleetError('BUSY', 'All connections of this process to Postgres are in use; try again in a moment', {
      cause: error,
    });
  }
  if (isStoreUnavailable(error)) {
    return new OncefleetError('STORE_UNAVAILABLE', 'Postgres cannot be reached; try again in a moment', {
      cause: error,
    });
  }
  return new OncefleetError('INTERNAL', 'Something unexpected happened; the log has it under this requestId', {
    cause: error,
  });
}

function fastifyError(error: unknown): OncefleetError | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code, statusCode } = error as { code?: unknown; statusCode?: unknown };
  switch (code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new OncefleetError(
        'MEDIA_TYPE_UNSUPPORTED',
        'Send the body as JSON with the header content-type: application/json',
      );
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new OncefleetError('ROUTE_NOT_FOUND', 'The path is malformed or too long');
    default:
      return statusCode === 400
        ? new OncefleetError('BODY_INVALID', 'The body could not be read to its end')
        : undefined;
  }
}

/** Whether an error says that Postgres is unreachable for now, looking through its causes. */
export function isStoreUnavailable(error: unknown): boolean {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ((at instanceof OncefleetError && at.code === 'STORE_UNAVAILABLE') || isTransient(at)) return true;
  }
  return false;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** In whose shape errors are told; default: as problems. */
    errors?: 'openai';
  }
}
