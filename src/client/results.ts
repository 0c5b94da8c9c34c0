import { JobFailedError, OncefleetError, type StoredFailure } from '../errors.ts';
import { MAX_TIMER_MS, parseOptions } from '../options.ts';
import { isUuid } from '../util/uuid.ts';
import { type ClientHost, notFound, tenantOf } from './host.ts';
import { resultSchema } from './options.ts';
import type { ResultOptions } from './types.ts';

export async function resultOf(
  host: ClientHost,
  id: string,
  options: ResultOptions & { tenant?: string } = {},
): Promise<unknown> {
  const { tenant } = parseOptions('result', resultSchema, options);
  if (!isUuid(id)) throw notFound(id);
  await host.runtime.followers.state(id, tenantOf(host, { tenant }));
  return waitForResult(host, id, options);
}

/** @param xid the job may be a part of this transaction, and never be if it is rolled back */
export async function waitForResult(
  { outcomes }: ClientHost,
  id: string,
  options: ResultOptions,
  xid?: string,
): Promise<unknown> {
  const timeout =
    options.timeoutMs === undefined
      ? undefined
      : AbortSignal.timeout(Math.ceil(Math.min(options.timeoutMs, MAX_TIMER_MS)));
  const signals = [options.signal, timeout].filter((signal) => signal !== undefined);
  try {
    const outcome = await outcomes.wait(id, signals.length === 0 ? undefined : AbortSignal.any(signals), xid);
    if (outcome.status === 'completed') return outcome.result === null ? undefined : JSON.parse(outcome.result);
    const failure = JSON.parse(outcome.error ?? 'null') as StoredFailure | null;
    const status = outcome.status === 'cancelled' ? 'cancelled' : 'failed';
    throw new JobFailedError(
      id,
      status,
      failure ?? { code: status === 'cancelled' ? 'CANCELLED' : 'INTERNAL', message: `Job ${id} was ${status}` },
    );
  } catch (error) {
    if (timeout?.aborted === true && error === timeout.reason) {
      throw new OncefleetError('WAIT_TIMEOUT', `Job ${id} has not ended within ${options.timeoutMs} ms; it continues`, {
        details: { jobId: id },
      });
    }
    throw error;
  }
}
