/** Taking jobs out of BullMQ. Those that wait are cancelled first. */
import type { Job, Queue } from 'bullmq';
import { endChildren } from './children.ts';
import { type Delivery, deliveriesOf, findDelivery, rowsToEnd } from './deliveries.ts';
import { endRowOf, endRows } from './end.ts';
import type { OperatorHost } from './host.ts';
import { isBullRefusal, refusedAsRunning, translated } from './refusals.ts';
import { eachOf, type QueueSet } from './sets.ts';

/** Ended jobs that BullMQ removes in one script. */
const CLEANED_AT_ONCE = 1_000;

/** States in which a job waits for its turn. */
const WAITING_STATES: ReadonlySet<string> = new Set([
  'waiting',
  'prioritized',
  'delayed',
  'waiting-children',
  'unknown',
]);

export async function removeOne(host: OperatorHost, queue: Queue, id: string): Promise<void> {
  const { job, delivery } = await findDelivery(host, queue, id);
  const state = await job.getState();
  if (state === 'active') throw refusedAsRunning(id);
  if (!WAITING_STATES.has(state)) return translated(job.remove());
  if (delivery.kind === 'foreign') await endChildren(host, queue, [job]);
  const ending = await endRowOf(host, delivery);
  if (ending === 'running' && delivery.kind === 'own') throw refusedAsRunning(id);
  // Cancelled while a worker was fetching it: that delivery finds it so, and ends.
  await translated(job.remove()).catch((error: unknown) => {
    if (ending !== 'ended') throw error;
  });
}

export async function removeAll(host: OperatorHost, queue: Queue, sets: readonly QueueSet[]): Promise<void> {
  for (const set of sets) {
    if (set === 'completed' || set === 'failed') {
      // Their rows have ended: BullMQ's own way, which reads no data.
      while ((await queue.clean(0, CLEANED_AT_ONCE, set)).length === CLEANED_AT_ONCE);
      continue;
    }
    await eachOf(host, queue, set, async (jobs) => {
      const deliveries = await deliveriesOf(host, queue, jobs);
      await endChildren(
        host,
        queue,
        jobs.filter((_, i) => deliveries[i]?.kind === 'foreign'),
      );
      const endings = await endRows(host, rowsToEnd(deliveries));
      const free = jobs.filter((_, i) => {
        const { kind, row } = deliveries[i] as Delivery;
        return kind !== 'own' || row === undefined || endings.get(row.id) !== 'running';
      });
      return jobs.length - free.length + (await removeFromBull(queue, free));
    });
  }
}

/** @returns how many stay: locked by a worker, or the next job of a scheduler */
async function removeFromBull(queue: Queue, jobs: readonly Job[]): Promise<number> {
  const removed = await Promise.all(
    jobs.map((job) =>
      queue.remove(job.id as string).then(
        (count) => count === 1,
        (error: unknown) => {
          if (isBullRefusal(error)) return false;
          throw error;
        },
      ),
    ),
  );
  return removed.filter((done) => !done).length;
}
