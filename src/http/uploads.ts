/** The route that takes documents as they are, and enqueues a job that ingests them. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { type NewDocument, PART_BYTES } from '../client/add-documents.ts';
import type { JobClient } from '../client/client.ts';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import { collectionParams, uploadHeaders, uploadQuery } from './collection-schemas.ts';
import { holdOf } from './counted-bytes.ts';
import { answerOf, readHeaderText, readKey } from './enqueue-route.ts';
import { problemResponses } from './problem.ts';
import { enqueueAnswer } from './schemas.ts';
import { readChunks, readForm } from './upload-body.ts';

interface UploadRouteOptions {
  client: JobClient;
  config: Partial<Pick<Config, 'uploadLimitBytes' | 'uploadStoreBytes'>>;
  stallMs: number;
}

/** A part that is gathered and its copy on the way to Postgres, and what parser and socket have. */
const UPLOAD_HELD_BYTES = 2 * PART_BYTES + 256 * 1024;
/** Boundaries and headers of 10,000 parts. */
const MAX_FORM_BYTES = 32 * 1024 * 1024;
/** What `curl --data-binary` says of anything. */
const MEANS_NOTHING = 'application/x-www-form-urlencoded';

const DESCRIPTION =
  'The body is one document, named by `path`, or a multipart form whose files are the documents, named by their file ' +
  'names. It is stored as it comes, and removed when its job has ended. A request that breaks off leaves nothing.';

export async function uploadRoute(instance: FastifyInstance, options: UploadRouteOptions): Promise<void> {
  const { client, config } = options;
  const app = instance.withTypeProvider<ZodTypeProvider>();
  // The handler reads the body itself, whatever it is.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));

  app.post(
    '/collections/:collection/documents',
    {
      schema: {
        summary: 'Upload documents into a collection',
        description: DESCRIPTION,
        tags: ['documents'],
        consumes: ['application/octet-stream', 'multipart/form-data'],
        params: collectionParams,
        headers: uploadHeaders,
        querystring: uploadQuery,
        response: {
          200: enqueueAnswer.describe('The key is of a job that has ended: `Idempotency-Replayed: true`.'),
          202: enqueueAnswer.describe('Accepted, or attached to the job in flight under this key.'),
          ...problemResponses(
            'INPUT_INVALID',
            'KEY_INVALID',
            'BODY_INVALID',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NAME_UNKNOWN',
            'REQUEST_STALLED',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'KEY_MISMATCH',
            'UPLOADS_FULL',
            'STORE_UNAVAILABLE',
            'BUSY',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request, reply) => {
      const { collection } = request.params;
      // Its body is stored as it comes, however long it is.
      holdOf(request).grow(UPLOAD_HELD_BYTES);
      const key = readKey(request.headers['idempotency-key']);
      const { path, removeMissing } = request.query;
      const handle = await client.collections.add(collection, documentsOf(request, path, options), {
        tenant: request.tenant,
        ...(key === undefined ? {} : { key }),
        ...(removeMissing === undefined ? {} : { removeMissing: removeMissing === 'true' }),
        ...(config.uploadLimitBytes === undefined ? {} : { maxBytes: config.uploadLimitBytes }),
        ...(config.uploadStoreBytes === undefined ? {} : { maxStoredBytes: config.uploadStoreBytes }),
      });
      const { code, headers, answer } = answerOf(handle);
      return reply.code(code).headers(headers).send(answer);
    },
  );
}

/** @throws OncefleetError MEDIA_TYPE_UNSUPPORTED, BODY_TOO_LARGE, and as its readers do */
async function* documentsOf(
  request: FastifyRequest,
  path: string | undefined,
  { config, stallMs }: UploadRouteOptions,
): AsyncGenerator<NewDocument, void, undefined> {
  const { headers, raw } = request;
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity')
    throw new OncefleetError('MEDIA_TYPE_UNSUPPORTED', 'Send the body without content-encoding');
  const limit = config.uploadLimitBytes;
  // Before a byte of it is read. A form has some bytes more than its documents.
  if (limit !== undefined && Number(headers['content-length']) > limit + MAX_FORM_BYTES)
    throw new OncefleetError('BODY_TOO_LARGE', `The body is larger than this server accepts: ${limit} bytes`);
  const contentType = headers['content-type'];
  const chunks = readChunks(raw, stallMs);
  if (contentType !== undefined && /^multipart\/form-data\b/i.test(contentType)) {
    yield* readForm(chunks, headers);
    return;
  }
  const named = path ?? readHeaderText('x-document-path', headers['x-document-path'] as string | undefined);
  yield {
    path: named as string,
    body: chunks,
    ...(contentType === undefined || contentType.toLowerCase().startsWith(MEANS_NOTHING) ? {} : { contentType }),
  };
}
