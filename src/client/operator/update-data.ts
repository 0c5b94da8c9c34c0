import type { Queue } from 'bullmq';
import { refuseMark } from './add.ts';
import { findDelivery } from './deliveries.ts';
import type { OperatorHost } from './host.ts';
import { refused, refusedAsOver, translated } from './refusals.ts';

export async function updateData(host: OperatorHost, queue: Queue, id: string, data: unknown): Promise<void> {
  const { job, delivery } = await findDelivery(host, queue, id);
  if (delivery.kind !== 'foreign')
    throw refused(
      `Job ${id} cannot be edited: its input is kept in Postgres and belongs to its key. Enqueue a new job with the other input; this one can be retried as it is`,
      id,
    );
  refuseMark(data);
  if (data === undefined) throw refused('There is no data: send it as jobData', id);
  const { row } = delivery;
  if (row !== undefined && (row.status === 'completed' || row.status === 'cancelled'))
    throw refusedAsOver(id, row, 'its data cannot be edited');
  await translated(job.updateData(data));
}
