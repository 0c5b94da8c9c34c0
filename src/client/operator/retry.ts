/** Running jobs again that BullMQ has as ended: their rows are redriven. */
import type { Job, Queue } from 'bullmq';
import { OncefleetError } from '../../errors.ts';
import { type Delivery, deliveriesOf, findDelivery } from './deliveries.ts';
import type { OperatorHost } from './host.ts';
import { refused, refusedAsOver, translated } from './refusals.ts';
import { eachOf } from './sets.ts';

/** Failed jobs that are retried together. */
const RETRIES_AT_ONCE = 20;

/** Refusals that are repeated word for word when many jobs are retried. */
const MAX_REASONS = 3;

export async function retryOne(
  host: OperatorHost,
  queue: Queue,
  id: string,
  state: 'completed' | 'failed',
): Promise<void> {
  const { job, delivery } = await findDelivery(host, queue, id);
  await retryDelivery(host, job, delivery, state);
}

export async function retryAll(
  host: OperatorHost,
  queue: Queue,
): Promise<{ retried: number; refused: number; why: string[] }> {
  const answer = { retried: 0, refused: 0, why: [] as string[] };
  await eachOf(host, queue, 'failed', async (jobs) => {
    const deliveries = await deliveriesOf(host, queue, jobs);
    const before = answer.refused;
    for (let i = 0; i < jobs.length; i += RETRIES_AT_ONCE) {
      const some = jobs.slice(i, i + RETRIES_AT_ONCE);
      const tried = await Promise.allSettled(
        some.map((job, at) => retryDelivery(host, job, deliveries[i + at] as Delivery, 'failed')),
      );
      for (const one of tried) {
        if (one.status === 'fulfilled') answer.retried++;
        else if (one.reason instanceof OncefleetError && one.reason.code === 'ACTION_REFUSED') {
          answer.refused++;
          if (answer.why.length < MAX_REASONS) answer.why.push(one.reason.message);
        } else throw one.reason;
      }
    }
    return answer.refused - before;
  });
  return answer;
}

async function retryDelivery(
  host: OperatorHost,
  job: Job,
  { kind, row }: Delivery,
  state: 'completed' | 'failed',
): Promise<void> {
  const id = job.id as string;
  if (row === undefined) {
    if (kind !== 'foreign')
      throw refused(`Job ${id} cannot be retried: Postgres does not know it any more. Remove it here`, id);
    return translated(job.retry(state));
  }
  // Without a key it means what BullMQ means by it.
  if (state === 'completed' && kind === 'foreign' && row.keyless) return translated(job.retry(state));
  if (state === 'completed') throw refusedAsOver(id, row, 'it is not run again; add a new job for that');
  if (row.status === 'cancelled') throw refusedAsOver(id, row, 'it is not run again; add a new job for that');
  if (kind !== 'own') return translated(job.retry(state));
  if (row.status !== 'failed')
    throw refused(
      row.status === 'completed'
        ? `Job ${id} has completed, and its outcome stands. Remove it here: BullMQ gave up on it before that`
        : `Job ${id} is not failed but ${row.status}: it runs without being retried`,
      id,
    );
  await host.redrive(row.id, { tenant: row.tenant }).catch((error: unknown) => {
    if (!(error instanceof OncefleetError) || error.code !== 'JOB_NOT_FAILED') throw error;
    throw refused(error.message, id, error);
  });
}
