/** Running delayed jobs now. */
import type { Queue } from 'bullmq';
import { rescheduleWaiting } from '../../db/operator.ts';
import { deliveriesOf, findDelivery, isOver, rowsToEnd } from './deliveries.ts';
import type { OperatorHost } from './host.ts';
import { refusedAsOver, translated } from './refusals.ts';
import { eachOf } from './sets.ts';

export async function promoteOne(host: OperatorHost, queue: Queue, id: string): Promise<void> {
  const { job, delivery } = await findDelivery(host, queue, id);
  const { row } = delivery;
  if (row !== undefined && isOver(row)) throw refusedAsOver(id, row, 'nothing is left to run');
  if (row?.status === 'pending' && delivery.kind !== 'copy')
    await rescheduleWaiting(host.runtime.db.kysely, [row.id], 0);
  await translated(job.promote());
}

export async function promoteAll(host: OperatorHost, queue: Queue): Promise<void> {
  await eachOf(host, queue, 'delayed', async (jobs) => {
    const deliveries = await deliveriesOf(host, queue, jobs);
    await rescheduleWaiting(
      host.runtime.db.kysely,
      rowsToEnd(deliveries)
        .filter((row) => row.status === 'pending')
        .map((row) => row.id),
      0,
    );
    const promoted = await Promise.all(
      jobs.map((job) =>
        job.promote().then(
          () => true,
          () => false,
        ),
      ),
    );
    return promoted.filter((done) => !done).length;
  });
}
