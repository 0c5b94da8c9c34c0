/** Cancelling all unfinished jobs that match, a page at a time. */
import { findUnfinishedMatches, timeBefore } from '../db/jobs/cancel.ts';
import type { UnfinishedCursor } from '../db/jobs/unfinished.ts';
import { OncefleetError } from '../errors.ts';
import { parseOptions } from '../options.ts';
import { cancelJob } from './cancel.ts';
import { type ClientHost, tenantOf } from './host.ts';
import { cancelManySchema } from './options.ts';
import type { CancelManyOptions, CancelManyResult } from './types.ts';

/** Jobs that one statement ends: 10 ms or so, for which their rows are locked. */
const PAGE = 500;
/** Running jobs that are told at once. */
const AT_ONCE = 20;

export async function cancelMany(host: ClientHost, options: CancelManyOptions = {}): Promise<CancelManyResult> {
  parseOptions('cancelMany', cancelManySchema, options);
  const { name, queue, status, keyPrefix, olderThanMs = 0, limit = Number.POSITIVE_INFINITY, signal } = options;
  const { db, transitions } = host.runtime;
  const tenant = tenantOf(host, options);
  // What is enqueued from now on is not meant, and a list that grows would have no end.
  const before = await timeBefore(db.kysely, olderThanMs);
  const filter = { tenant, name, queue, status, keyPrefix, before };
  const result: CancelManyResult = { matched: 0, cancelled: 0, requested: 0 };
  let after: UnfinishedCursor | undefined;
  do {
    signal?.throwIfAborted();
    const page = await findUnfinishedMatches(db.kysely, filter, { after, limit: PAGE });
    const jobs = page.jobs.slice(0, limit - result.matched);
    result.matched += jobs.length;
    const waiting = jobs.filter((job) => job.status === 'pending').map(({ id }) => id);
    const ended = new Set(await transitions.cancelWaiting(waiting, 'client'));
    result.cancelled += ended.size;
    // Running, or claimed just now: those who run them are told, one by one. What only waiting jobs were meant for is left.
    const rest = status === 'pending' ? [] : jobs.filter(({ id }) => !ended.has(id));
    for (let i = 0; i < rest.length; i += AT_ONCE)
      await Promise.all(rest.slice(i, i + AT_ONCE).map(({ id }) => cancelOne(host, id, tenant, result)));
    options.onProgress?.({ ...result });
    after = page.end;
  } while (after !== undefined && result.matched < limit);
  return result;
}

async function cancelOne(host: ClientHost, id: string, tenant: string, result: CancelManyResult): Promise<void> {
  try {
    const { outcome } = await cancelJob(host, id, { tenant });
    if (outcome === 'cancelled') result.cancelled++;
    if (outcome === 'requested') result.requested++;
  } catch (error) {
    // Removed meanwhile: there is nothing to cancel.
    if (!(error instanceof OncefleetError && error.code === 'JOB_NOT_FOUND')) throw error;
  }
}
