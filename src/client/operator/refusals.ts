/** Answers to actions that a job's state, or its row, does not allow. */
import type { ShownRow } from '../../db/operator.ts';
import { OncefleetError } from '../../errors.ts';

export function refused(message: string, jobId?: string, cause?: unknown): OncefleetError {
  return new OncefleetError('ACTION_REFUSED', message, {
    ...(cause === undefined ? {} : { cause }),
    details: jobId === undefined ? {} : { jobId },
  });
}

export function refusedAsRunning(id: string): OncefleetError {
  return refused(
    `Job ${id} is being run by a worker. Wait until it has ended, or cancel it: \`oncefleet cancel ${id}\``,
    id,
  );
}

export function refusedAsOver(id: string, row: ShownRow, why: string): OncefleetError {
  const how = { completed: 'has completed', failed: 'has failed', cancelled: 'was cancelled' }[
    row.status as 'completed'
  ];
  return refused(`Job ${id} ${how}, which its row in Postgres keeps: ${why}`, id);
}

/** BullMQ's answer to what a job's state does not allow. */
export function isBullRefusal(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  const { code } = error as { code?: unknown };
  return (typeof code === 'number' && code < 0) || error.message.includes('could not be removed because it is locked');
}

/** Passes on what BullMQ does. @throws OncefleetError ACTION_REFUSED instead of BullMQ's refusal */
export async function translated<T>(done: Promise<T>): Promise<T> {
  try {
    return await done;
  } catch (error) {
    if (!isBullRefusal(error)) throw error;
    throw refused(`BullMQ did not do it: ${error.message}. The job has moved on; look at it again`, undefined, error);
  }
}
