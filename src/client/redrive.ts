/** Running failed jobs again: one, or all that match. */
import { crashPoint } from '../crash-points.ts';
import { findJob } from '../db/jobs/find.ts';
import { type FailedFilter, type FailedJob, findFailedJobs } from '../db/jobs/search.ts';
import type { TransitionMaker } from '../db/jobs/states.ts';
import { toDispatchRow } from '../db/jobs/unfinished.ts';
import { OncefleetError, toStoredFailure } from '../errors.ts';
import { parseOptions } from '../options.ts';
import { isUuid } from '../util/uuid.ts';
import { type ClientHost, notFound, tenantIn, tenantOf } from './host.ts';
import { MAX_REDRIVE, redriveSchema } from './options.ts';
import { waitForResult } from './results.ts';
import type { RedriveManyOptions, RedriveManyResult } from './types.ts';

const REDRIVE_AT_ONCE = 20;
const CANARY_TIMEOUT_MS = 600_000;

export async function redriveJob(
  host: ClientHost,
  id: string,
  options: { tenant?: string } = {},
  by: TransitionMaker = 'client',
): Promise<void> {
  const { db, dispatcher, log, transitions } = host.runtime;
  const ownTenant = tenantIn(host, 'redrive', options);
  const row = isUuid(id) ? await findJob(db.kysely, ownTenant, id) : undefined;
  if (row === undefined) throw notFound(id);
  if (!(await transitions.redrive(id, by))) {
    throw new OncefleetError('JOB_NOT_FAILED', `Job ${id} is ${row.status}; only failed jobs can be redriven`, {
      details: { jobId: id, status: row.status },
    });
  }
  crashPoint('redrive.row');
  await dispatcher
    .redispatch(toDispatchRow(row), by)
    .catch((err: unknown) => log.warn({ err, jobId: id }, 'redriven but not dispatched; the reconciler will do it'));
}

export async function redriveMany(host: ClientHost, options: RedriveManyOptions = {}): Promise<RedriveManyResult> {
  parseOptions('Redrive', redriveSchema, options);
  const { canary = 0, limit = MAX_REDRIVE, signal, name, code, withinMs } = options;
  const tenant = tenantOf(host, options);
  const filter = { tenant, name, code, withinMs: Number.isFinite(withinMs) ? withinMs : undefined };
  const ids = await findLongestFailed(host, filter, { limit, signal });
  const result: RedriveManyResult = { matched: ids.length, redriven: 0, failedCanaries: [] };
  const redriveOne = async (id: string): Promise<boolean> => {
    signal?.throwIfAborted();
    if (!(await redriveIfFailed(host, id, tenant))) return false;
    result.redriven++;
    options.onProgress?.({ redriven: result.redriven, matched: ids.length });
    return true;
  };
  const canaries = await inChunks(ids.slice(0, canary), redriveOne);
  const timeoutMs = options.canaryTimeoutMs ?? CANARY_TIMEOUT_MS;
  await Promise.all(
    canaries.map(async (id) => {
      await waitForResult(host, id, { timeoutMs, ...(signal === undefined ? {} : { signal }) }).catch(
        (error: unknown) => {
          signal?.throwIfAborted();
          result.failedCanaries.push({ id, ...toStoredFailure(error) });
        },
      );
    }),
  );
  if (result.failedCanaries.length > 0) return result;
  await inChunks(ids.slice(canary), redriveOne);
  return result;
}

/**
 * All rows of the tenant are looked through, a page in a search of its own: between two of them others have their turn.
 *
 * @returns ids, longest failed first
 */
async function findLongestFailed(
  host: ClientHost,
  filter: FailedFilter,
  { limit, signal }: { limit: number; signal: AbortSignal | undefined },
): Promise<string[]> {
  let found: FailedJob[] = [];
  let after: string | undefined;
  do {
    signal?.throwIfAborted();
    const page = await host.search((trx) => findFailedJobs(trx, filter, after));
    found.push(...page.jobs);
    // However many have failed, no more are held than are wanted and a page.
    if (found.length > limit) found = found.sort((a, b) => a.finishedAt - b.finishedAt).slice(0, limit);
    after = page.end;
  } while (after !== undefined);
  return found.sort((a, b) => a.finishedAt - b.finishedAt).map(({ id }) => id);
}

/** Another operator may have been faster: what is no longer failed is left alone. */
async function redriveIfFailed(host: ClientHost, id: string, tenant: string): Promise<boolean> {
  try {
    await redriveJob(host, id, { tenant });
    return true;
  } catch (error) {
    if (error instanceof OncefleetError && (error.code === 'JOB_NOT_FAILED' || error.code === 'JOB_NOT_FOUND'))
      return false;
    throw error;
  }
}

/** @returns those that were redriven */
async function inChunks(ids: readonly string[], redriveOne: (id: string) => Promise<boolean>): Promise<string[]> {
  const redriven: string[] = [];
  for (let i = 0; i < ids.length; i += REDRIVE_AT_ONCE) {
    const chunk = ids.slice(i, i + REDRIVE_AT_ONCE);
    // All of them have settled before an error is reported: no job is redriven after that.
    const settled = await Promise.allSettled(chunk.map(redriveOne));
    for (const [at, outcome] of settled.entries()) {
      if (outcome.status === 'rejected') throw outcome.reason;
      if (outcome.value) redriven.push(chunk[at] as string);
    }
  }
  return redriven;
}
