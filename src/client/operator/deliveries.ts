/** BullMQ jobs and the rows that they are about. */
import type { Job, Queue } from 'bullmq';
import { isTerminalStatus } from '../../db/jobs/states.ts';
import { findForeignRows, findShownRows, type ShownRow } from '../../db/operator.ts';
import { readJobData } from '../../enqueue/job-data.ts';
import { OncefleetError } from '../../errors.ts';
import { isUuid } from '../../util/uuid.ts';
import type { OperatorHost } from './host.ts';

/** A BullMQ job and the row that it is about. */
export interface Delivery {
  /** `own`: the fleet's, under the id of its row; `copy`: made of one of those; `foreign`: another client's. */
  kind: 'own' | 'copy' | 'foreign';
  /** Of its row, if that is known by an id. */
  rowId: string | undefined;
  row: ShownRow | undefined;
}

/**
 * A job of a queue. BullMQ takes any id, also one that names another key of the queue (`meta`,
 * `delayed`): of those it would read, and remove, what is no job.
 */
export async function findJob({ runtime }: OperatorHost, queue: Queue, id: string): Promise<Job | undefined> {
  try {
    if ((await runtime.redis.hget(queue.toKey(id), 'timestamp')) === null) return undefined;
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('WRONGTYPE')) return undefined;
    throw error;
  }
  return queue.getJob(id);
}

/** @throws OncefleetError JOB_NOT_FOUND */
export async function findDelivery(
  host: OperatorHost,
  queue: Queue,
  id: string,
): Promise<{ job: Job; delivery: Delivery }> {
  const job = await findJob(host, queue, id);
  if (job === undefined)
    throw new OncefleetError('JOB_NOT_FOUND', `Queue ${queue.name} has no job ${id.slice(0, 100)} any more`);
  const [delivery] = await deliveriesOf(host, queue, [job]);
  return { job, delivery: delivery as Delivery };
}

export async function deliveriesOf({ runtime }: OperatorHost, queue: Queue, jobs: readonly Job[]): Promise<Delivery[]> {
  const { db } = runtime;
  const marked = jobs.map((job) => readJobData(job)?.jobId);
  const rows = await findShownRows(db.kysely, [
    ...marked.filter((id) => id !== undefined),
    // The mark may have been edited away; the id is the row's for good.
    ...jobs.map((job) => job.id as string).filter((id, i) => marked[i] === undefined && isUuid(id)),
  ]);
  const known = jobs.map((job, i): Delivery | undefined => {
    const rowId = marked[i];
    if (rowId !== undefined) return { kind: rowId === job.id ? 'own' : 'copy', rowId, row: rows.get(rowId) };
    const row = rows.get(job.id as string);
    return row?.name === job.name ? { kind: 'own', rowId: row.id, row } : undefined;
  });
  const foreign = jobs.filter((_, i) => known[i] === undefined);
  const prefix = queue.opts.prefix ?? 'bull';
  const found = await findForeignRows(
    db.kysely,
    foreign.map(({ id, timestamp }) => ({ prefix, queue: queue.name, id: String(id), timestamp })),
  );
  return jobs.map((job, i) => {
    const delivery = known[i];
    if (delivery !== undefined) return delivery;
    const row = found[foreign.indexOf(job)];
    return { kind: 'foreign', rowId: row?.id, row };
  });
}

/** Rows that end with their BullMQ job: a copy is only one more delivery of its. */
export function rowsToEnd(deliveries: readonly Delivery[]): ShownRow[] {
  return deliveries.flatMap(({ kind, row }) => (kind === 'copy' || row === undefined ? [] : [row]));
}

export function isOver(row: ShownRow): boolean {
  return isTerminalStatus(row.status);
}
