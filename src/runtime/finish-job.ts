import { type CrashPoint, crashPoint } from '../crash-points.ts';
import { type FinishedJob, finishAbandoned } from '../db/jobs/finish.ts';
import type { JobPolicy } from '../jobs/define-job.ts';
import type { Alerted } from './poison-alerts.ts';
import type { Runtime } from './runtime.ts';

/** Of a definition, what the end of its job needs. */
export interface FinishPolicy extends Pick<Alerted, 'onPoison'> {
  readonly policy: Pick<JobPolicy, 'maxCrashes' | 'resultTtlMs'>;
}

interface FinishJobOptions {
  /** `undefined` where this process does not know the job's definition: the fleet's settings count. */
  definition: FinishPolicy | undefined;
  /** The crash point between the commit and the announcements. */
  committed?: CrashPoint;
  /** BullMQ's attemptsMade of the delivery that met the job, if one did. */
  delivery?: number;
  /** `requested`: only a cancel or the deadline ends it. `now`: cancels it whether that was requested or not. */
  cancel?: 'requested' | 'now';
}

/**
 * Ends a job that nobody runs, if it must end, and tells whoever has to know: readers of its stream
 * and, for a poisoned job, `onPoison`.
 *
 * @returns `alerted` settles when `onPoison` has been called; undefined when the job may run or has ended
 */
export async function finishJob(
  runtime: Pick<Runtime, 'db' | 'settings' | 'publisher' | 'poisonAlerts'>,
  id: string,
  { definition, committed, delivery, cancel }: FinishJobOptions,
): Promise<(FinishedJob & { alerted: Promise<void> }) | undefined> {
  const { settings } = runtime;
  const finished = await finishAbandoned(runtime.db.kysely, id, {
    resultTtlMs: definition?.policy.resultTtlMs ?? settings.resultTtlMs,
    maxCrashes: cancel === undefined ? (definition?.policy.maxCrashes ?? settings.maxCrashes) : undefined,
    ...(delivery === undefined ? {} : { delivery }),
    cancel: cancel === 'now',
  });
  if (finished === undefined) return undefined;
  if (committed !== undefined) crashPoint(committed);
  runtime.publisher.publish([{ batch: finished.batch, end: true }]);
  const { alert } = finished;
  const alerted = alert === undefined ? Promise.resolve() : runtime.poisonAlerts.raise(definition, alert);
  return { ...finished, alerted };
}
