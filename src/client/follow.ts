/** Reading a job's stream: as it comes, in batches, or a page. */
import type { z } from 'zod';
import type { FollowedBatch } from '../journal/batches.ts';
import type { Cursor } from '../journal/cursor.ts';
import type { FollowStreamOptions } from '../journal/follower.ts';
import { type Following, failedFollowing } from '../journal/following.ts';
import { parseOptions } from '../options.ts';
import { isUuid } from '../util/uuid.ts';
import { type ClientHost, notFound, tenantOf } from './host.ts';
import { batchesSchema, DEFAULT_EVENTS, readSchema } from './options.ts';
import type { EventPage, FollowBatchesOptions, FollowOptions } from './types.ts';

export function followJob(
  { runtime }: ClientHost,
  what: string,
  schema: z.ZodType,
  id: string,
  tenant: string,
  options: Omit<FollowOptions, 'tenant'>,
): Following {
  try {
    parseOptions(what, schema, options);
  } catch (error) {
    return failedFollowing(error as Error, -1);
  }
  const { after = -1, signal, types, committed, throughOutages } = options;
  const wanted: FollowStreamOptions = { streamId: id, tenant, after, signal, types, committed, throughOutages };
  return isUuid(id) ? runtime.followers.follow(wanted) : failedFollowing(notFound(id), after);
}

export async function* followJobBatches(
  { runtime }: ClientHost,
  id: string,
  options: FollowBatchesOptions = {},
): AsyncGenerator<FollowedBatch, void, undefined> {
  parseOptions('followBatches', batchesSchema, options);
  if (!isUuid(id)) throw notFound(id);
  const { after = -1, tenant = runtime.settings.tenant, ...others } = options;
  yield* runtime.followers.followBatches({ ...others, streamId: id, tenant, after });
}

export async function readEvents(
  host: ClientHost,
  id: string,
  options: { tenant?: string; after?: Cursor; limit?: number } = {},
): Promise<EventPage> {
  const { tenant } = parseOptions('readEvents', readSchema, options);
  if (!isUuid(id)) throw notFound(id);
  return host.runtime.followers.readPage(
    id,
    tenantOf(host, { tenant }),
    options.after ?? -1,
    options.limit ?? DEFAULT_EVENTS,
  );
}
