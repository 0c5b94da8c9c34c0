/**
 * The Idempotency-Key header. The IETF draft has it as a structured string, in quotes; most clients send it bare. Both are one
 * key. Builds before took the quotes as a part of the key: a job that has such a key, and is not past its
 * TTL, keeps it, so that a client that sends it again does not start another.
 *
 * @see https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
 */
import type { FastifyRequest, preHandlerAsyncHookHandler } from 'fastify';
import type { JobClient } from '../client/client.ts';
import { OncefleetError } from '../errors.ts';

const NAME = 'idempotency-key';

/** A structured string: visible ASCII and blanks, with quotes and backslashes escaped. */
const QUOTED = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/;

/** Gives routes the header with its key bare. */
export function createKeyHeader(client: Pick<JobClient, 'find'>): preHandlerAsyncHookHandler {
  return async (request) => {
    const header = request.headers[NAME];
    if (typeof header !== 'string') return;
    if (countOf(request) > 1)
      throw new OncefleetError('KEY_INVALID', 'Idempotency-Key: expected one header, got several; a job has one key');
    const bare = QUOTED.exec(header)?.[1];
    if (bare === undefined || (await isKept(client, request, header))) return;
    // Assigned, not changed: a schema of headers has its own copy.
    request.headers = { ...request.headers, [NAME]: bare.replace(/\\(["\\])/g, '$1') };
  };
}

/** Node joins headers of one name, so that two keys would read as one. */
function countOf({ raw }: FastifyRequest): number {
  return raw.rawHeaders.filter((text, i) => i % 2 === 0 && text.toLowerCase() === NAME).length;
}

/** Whether a job has the key with its quotes, and would be found by it. */
async function isKept(client: Pick<JobClient, 'find'>, request: FastifyRequest, key: string): Promise<boolean> {
  const { name } = request.params as { name?: unknown };
  if (typeof name !== 'string' || key.length > 255) return false;
  const { jobs } = await client.find({ tenant: request.tenant, key, name, limit: 1 });
  return jobs.some(({ expiresAt }) => expiresAt === null || Date.parse(expiresAt) > Date.now());
}
