/** Repairs what the doctor has found, job by job. Each repair is guarded by the row, so a live fleet is not disturbed. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { listUnfinished } from '../../db/doctor.ts';
import { bullIdOf, type MissingRow } from '../../enqueue/dispatcher.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { finishIfOver, repairStreamOf } from '../repairs.ts';
import { queueOf, type Suspect } from './scan.ts';

/** How long Redis may take to answer at all. */
export const REDIS_WAIT_MS = 5_000;

/** Between two attempts to give a job to a Redis that is slow. */
const DISPATCH_AGAIN_MS = 50;

/** @throws the signal's reason */
export async function repair(
  runtime: Runtime,
  jobs: ReadonlyMap<string, AnyJobDefinition>,
  suspect: Suspect,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { id, kind, row, bull } = suspect;
  const queue = queueOf(runtime, suspect);
  const bullId = row === undefined ? id : bullIdOf(row);
  switch (kind) {
    case 'not-dispatched':
    case 'ended-in-bullmq':
    case 'lost':
    case 'deserted':
    case 'lease-expired':
      if (bull?.state === 'deserted' || bull?.state === 'waiting-children') await remove(runtime, queue, bullId);
      if (row !== undefined) {
        const delayMs = row.status === 'running' ? 0 : row.delayMs;
        await dispatch(runtime, { ...row, delayMs, absent: bull?.state === 'absent' }, signal);
      }
      return;
    case 'unlisted':
      await listUnfinished(runtime.db.kysely, id);
      return;
    case 'late':
      await runtime.dispatcher.promote(queue, [bullId]);
      return;
    case 'unended':
      if (row !== undefined) await finishIfOver(runtime, jobs, row, 'doctor');
      // It has nothing more to wait for. A job that another client added stays, for its flow and its listeners: delivered, it fails.
      if (bull?.state !== 'active' && row?.source === undefined) await remove(runtime, queue, bullId);
      return;
    case 'superfluous':
    case 'without-row':
    case 'other-outcome':
      await remove(runtime, queue, bullId);
      return;
    case 'open-stream':
    case 'closed-stream':
      await repairStreamOf(runtime, id);
      return;
    default:
      kind satisfies never;
  }
}

/** Takes a job out of BullMQ. One that is locked, gone or has moved on is left to the process that holds it. */
async function remove({ redis, log }: Runtime, queue: Queue, bullId: string): Promise<void> {
  const job = await queue.getJob(bullId);
  await job?.remove().catch((err: unknown) => log.debug({ err, jobId: bullId }, 'not removed from BullMQ'));
  // A list may hold an id whose hash is gone; BullMQ has no call for that.
  if (job === undefined) await redis.lrem(queue.toKey('wait'), '0', bullId);
}

/** A slow Redis accepts only some of many jobs in time, and the dispatcher refuses the others meanwhile: they wait here. */
async function dispatch({ dispatcher }: Runtime, row: MissingRow, signal: AbortSignal | undefined): Promise<void> {
  for (const until = performance.now() + REDIS_WAIT_MS; ; ) {
    if ((await dispatcher.redispatch(row, 'doctor')) || performance.now() > until) return;
    await delay(DISPATCH_AGAIN_MS, undefined, { signal });
  }
}
