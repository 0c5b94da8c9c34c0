/** Queues that are paused in Postgres and not in Redis, or the other way round. */
import type { PauseDifference } from '../../runtime/pauses.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import type { Finding } from './diagnosis.ts';

const PAUSE_DIFFERENCES: Readonly<Record<PauseDifference, string>> = {
  lost: 'paused, and Redis has lost it',
  'not-resumed': 'resumed, and Redis does not know it',
  'paused-elsewhere': 'paused by another BullMQ client',
  'resumed-elsewhere': 'resumed by another BullMQ client',
  unmarked: 'paused, and Redis does not have which pause it is',
  stale: 'resumed, and Redis still has which pause it was',
};

/** By the queue's qualified name. */
type PauseDifferences = ReadonlyMap<string, PauseDifference>;

export async function findPauseDifferences({ pauses, dispatcher }: Runtime): Promise<PauseDifferences> {
  const found = await pauses.findDifferences(dispatcher.queues);
  return new Map(found.map(({ queue, how }) => [queue.qualifiedName, how]));
}

/** Of queues whose pause differed, those where it still does, brought in line if `fix` is set. */
export async function comparePauses(
  { pauses, dispatcher }: Runtime,
  before: PauseDifferences,
  fix: boolean,
): Promise<Finding[]> {
  if (before.size === 0) return [];
  const found = (await pauses.findDifferences(dispatcher.queues)).filter(
    ({ queue, how }) => before.get(queue.qualifiedName) === how,
  );
  if (found.length === 0) return [];
  const repaired = fix ? (await pauses.align(found.map(({ queue }) => queue))).length : 0;
  const queues = found.map(({ queue, how }) => `${queue.name} (${PAUSE_DIFFERENCES[how]})`).join(', ');
  return [
    {
      kind: 'pause-differs',
      message: `Postgres and Redis differ about a pause: ${queues}.`,
      remedy: fix
        ? 'Brought in line.'
        : '--fix: a pause that Redis lost is restored; what another client did is noted in Postgres.',
      count: found.length,
      repaired: Math.min(repaired, found.length),
      jobs: [],
    },
  ];
}
