/** Routes for many jobs at once: enqueue, and cancel all that match. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { JobClient } from '../client/client.ts';
import type { BulkItem, CancelManyOptions } from '../client/types.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { parseOptions } from '../options.ts';
import { CONTROL_BODY_BYTES } from './body.ts';
import { problemResponses } from './problem.ts';
import {
  bulkAnswer,
  bulkBody,
  cancelManyAnswer,
  cancelManyBody,
  jobNameParams,
  MAX_BULK_ITEMS,
  MAX_CANCEL,
} from './schemas.ts';

export async function bulkRoutes(instance: FastifyInstance, { client }: { client: JobClient }): Promise<void> {
  enqueueManyRoute(instance, client);
  cancelManyRoute(instance, client);
}

function enqueueManyRoute(instance: FastifyInstance, client: JobClient): void {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.post(
    '/jobs/:name/bulk',
    {
      schema: {
        summary: 'Enqueue many jobs',
        description:
          'An item that is refused keeps no other from being accepted: 200 says of each what it is. Sent again with the same keys, what was accepted is attached or replayed.',
        tags: ['jobs'],
        params: jobNameParams,
        body: bulkBody,
        response: {
          200: bulkAnswer,
          ...problemResponses(
            'INPUT_INVALID',
            'BODY_INVALID',
            'REQUEST_STALLED',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'JOB_NAME_UNKNOWN',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request) => {
      const { name } = request.params;
      if (!client.jobs.has(name))
        throw new OncefleetError('JOB_NAME_UNKNOWN', `No job is named "${name}"; /v1/job-definitions lists them`);
      const { outcomes, counts } = await client.enqueueMany(name, itemsOf(request.body), { tenant: request.tenant });
      const items = outcomes.map((one) =>
        'error' in one
          ? { index: one.index, outcome: one.outcome, error: { code: one.error.code, message: one.error.message } }
          : { index: one.index, outcome: one.outcome, id: one.id, status: one.status },
      );
      return { items, counts };
    },
  );
}

function cancelManyRoute(instance: FastifyInstance, client: JobClient): void {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  app.post(
    '/cancel',
    {
      config: { scope: 'admin' },
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Cancel unfinished jobs, all that match',
        description:
          'One request takes 10,000 jobs at most, those that are due first. Sent again, it takes the rest, until `matched` is 0. Jobs that are enqueued meanwhile are left.',
        tags: ['jobs'],
        body: cancelManyBody,
        response: {
          200: cancelManyAnswer,
          ...problemResponses(
            'INPUT_INVALID',
            'BODY_INVALID',
            'REQUEST_STALLED',
            'UNAUTHORIZED',
            'SCOPE_MISSING',
            'BODY_TOO_LARGE',
            'MEDIA_TYPE_UNSUPPORTED',
            'STORE_UNAVAILABLE',
            'SHUTTING_DOWN',
          ),
        },
      },
    },
    async (request) => {
      // Nothing at all is too easily sent by mistake to stand for every job.
      if (request.body === undefined)
        throw new OncefleetError('BODY_INVALID', 'The body is empty; send a filter, or {} for any unfinished job');
      const body = parseOptions('Cancel', cancelManyBody, request.body);
      return client.cancelMany({ limit: MAX_CANCEL, ...(body as CancelManyOptions), tenant: request.tenant });
    },
  );
}

/** Of the list alone: what is wrong with an item is said in its place. @throws InputInvalidError */
function itemsOf(body: unknown): BulkItem[] {
  const { items, ...others } = Object(body) as { items?: unknown };
  const more = Object.keys(others).slice(0, 20);
  if (more.length > 0)
    throw new InputInvalidError(
      'Body',
      more.map((path) => ({ path, message: 'is not known; send {"items": […]}' })),
    );
  if (!Array.isArray(items) || items.length > MAX_BULK_ITEMS)
    throw new InputInvalidError('Body', [
      { path: 'items', message: `expected an array of at most ${MAX_BULK_ITEMS} items` },
    ]);
  return items;
}
