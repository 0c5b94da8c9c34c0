/** The route that enqueues a job. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { JobHandle } from '../client/types.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { linksOf } from './job-id.ts';
import type { JobRoutesOptions } from './jobs.ts';
import { problemResponses } from './problem.ts';
import { enqueueAnswer, enqueueHeaders, enqueueQuery, jobNameParams } from './schemas.ts';

export async function enqueueRoute(instance: FastifyInstance, { client }: JobRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.post(
    '/jobs/:name',
    {
      schema: {
        summary: 'Enqueue a job',
        description: 'The body is the input. Disconnecting never cancels the job.',
        tags: ['jobs'],
        params: jobNameParams,
        headers: enqueueHeaders,
        querystring: enqueueQuery,
        body: z.unknown().describe('The input, as /v1/job-definitions describes it.'),
        response: {
          200: enqueueAnswer.describe('The key is of a job that has ended: `Idempotency-Replayed: true`.'),
          202: enqueueAnswer.describe('Accepted, or attached to the job in flight under this key.'),
          ...problemResponses(
            'INPUT_INVALID',
            'KEY_INVALID',
            'LIMIT_KEY_INVALID',
            'BODY_INVALID',
            'EVENT_INVALID',
            'REQUEST_STALLED',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NAME_UNKNOWN',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'KEY_MISMATCH',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      if (!client.jobs.has(name))
        throw new OncefleetError('JOB_NAME_UNKNOWN', `No job is named "${name}"; /v1/job-definitions lists them`);
      if (request.body === undefined)
        throw new OncefleetError('BODY_INVALID', 'The body is empty; send the input as JSON');
      const key = readKey(request.headers['idempotency-key']);
      const { delayMs, priority } = request.query;
      const handle = await client.enqueue(name, request.body, {
        tenant: request.tenant,
        ...(key === undefined ? {} : { key }),
        ...(delayMs === undefined ? {} : { delayMs }),
        ...(priority === undefined ? {} : { priority }),
      });
      const { code, headers, answer } = answerOf(handle);
      return reply.code(code).headers(headers).send(answer);
    },
  );
}

/** What a request is told that enqueues a job. */
export function answerOf({ id, status, outcome }: Pick<JobHandle, 'id' | 'status' | 'outcome'>) {
  const answer = { id, status, outcome, links: linksOf(id) };
  const headers: Record<string, string> = { location: answer.links.self };
  if (outcome !== 'replayed') return { code: 202 as const, headers, answer };
  return { code: 200 as const, headers: { ...headers, 'idempotency-replayed': 'true' }, answer };
}

/**
 * Node reads header bytes as Latin-1. Keys are UTF-8, so that one and the same key means
 * the same job over HTTP and in the library.
 */
export function readKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  let key: string;
  try {
    key = decodeHeader(header);
  } catch {
    throw new OncefleetError('KEY_INVALID', 'Idempotency-Key: expected UTF-8');
  }
  checkKey(key);
  return key;
}

/** @throws InputInvalidError it is no UTF-8 */
export function readHeaderText(name: string, header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  try {
    return decodeHeader(header);
  } catch {
    throw new InputInvalidError('Headers', [{ path: name, message: 'expected UTF-8' }]);
  }
}

function decodeHeader(header: string): string {
  return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(header, 'latin1'));
}
