/** Changing when a waiting job runs: its delay and its priority, in its row and in BullMQ. */
import type { Queue } from 'bullmq';
import { reprioritiseWaiting, rescheduleWaiting, type ShownRow } from '../../db/operator.ts';
import { parseOptions } from '../../options.ts';
import { addOptionsSchema } from './add.ts';
import { type Delivery, findDelivery, isOver } from './deliveries.ts';
import type { OperatorHost } from './host.ts';
import { refused, refusedAsOver, refusedAsRunning, translated } from './refusals.ts';

export async function reschedule(host: OperatorHost, queue: Queue, id: string, delayMs: number): Promise<void> {
  parseOptions('Reschedule', addOptionsSchema, { delay: Math.round(delayMs) });
  const db = host.runtime.db.kysely;
  const { job, delivery } = await findDelivery(host, queue, id);
  const row = waitingRow(id, delivery, 'it cannot be rescheduled');
  if (row === undefined) return translated(job.changeDelay(Math.round(delayMs)));
  if (!(await rescheduleWaiting(db, [row.id], delayMs)).has(row.id)) throw refusedAsRunning(id);
  await translated(job.changeDelay(Math.round(delayMs))).catch(async (error: unknown) => {
    // It became due meanwhile: BullMQ has handed it out, and so it may run.
    await rescheduleWaiting(db, [row.id], 0);
    throw error;
  });
}

export async function reprioritise(host: OperatorHost, queue: Queue, id: string, priority: number): Promise<void> {
  parseOptions('Priority', addOptionsSchema, { priority });
  const { job, delivery } = await findDelivery(host, queue, id);
  const row = waitingRow(id, delivery, 'its priority cannot be changed');
  if (row !== undefined && !(await reprioritiseWaiting(host.runtime.db.kysely, row.id, priority)))
    throw refusedAsRunning(id);
  await translated(job.changePriority({ priority }));
}

/** The row of a job whose plan is to be changed, if it has one of its own. @throws OncefleetError ACTION_REFUSED */
function waitingRow(id: string, { kind, row }: Delivery, why: string): ShownRow | undefined {
  if (row === undefined) {
    if (kind === 'foreign') return undefined;
    throw refused(`Postgres does not know job ${id} any more: ${why}. Remove it here`, id);
  }
  if (isOver(row)) throw refusedAsOver(id, row, why);
  if (row.held) throw refused(`Somebody runs job ${id} at present: ${why}`, id);
  return row.status === 'pending' && kind !== 'copy' ? row : undefined;
}
