import type { Job } from 'bullmq';
import { type ClaimedJob, lockFence, saveCheckpoint } from '../db/jobs.ts';
import { LeaseLostError } from '../errors.ts';
import { encodeJson, type JobEvent } from '../journal/event.ts';
import type { StreamWriter } from '../journal/writer.ts';
import type { Logger } from '../log.ts';
import type { JobContext } from './define-job.ts';
import type { Runtime } from './runtime.ts';

export interface ContextOptions {
  runtime: Runtime;
  /** BullMQ's side of the delivery: gets log lines and progress. */
  delivery: Job;
  claimed: ClaimedJob;
  attempt: number;
  stream: StreamWriter;
  controller: AbortController;
  ttlMs: number;
}

/** What a handler works with during one claim. */
export function createContext(options: ContextOptions): JobContext {
  const { runtime, delivery, claimed, stream, controller } = options;
  const db = runtime.db.kysely;
  const { id, fence } = claimed;
  let log: Logger | undefined;

  const lose = (why: string): never => {
    const error = new LeaseLostError(id, fence, why);
    controller.abort(error);
    throw error;
  };

  return {
    jobId: id,
    tenant: claimed.tenant,
    name: claimed.name,
    key: claimed.key,
    attempt: options.attempt,
    fence,
    signal: controller.signal,
    db,
    resumedFrom: claimed.checkpoint === null ? undefined : JSON.parse(claimed.checkpoint),
    // Most handlers log nothing, and a child logger is not free.
    get log() {
      log ??= teeToDelivery(runtime.log.child({ jobId: id, jobName: claimed.name, fence }), delivery);
      return log;
    },
    emit: (event: JobEvent) => stream.emit(event),
    async progress(progress) {
      const event = {
        type: 'progress',
        done: progress.done,
        ...(progress.total === undefined ? {} : { total: progress.total }),
        ...(progress.message === undefined ? {} : { message: progress.message }),
      };
      delivery.updateProgress(progress).catch(() => undefined);
      await stream.emit(event);
    },
    flush: () => stream.flush(),
    async checkpoint(value) {
      const json = encodeJson(value, 'checkpoint');
      // Taken before the flush: events emitted meanwhile come after this checkpoint.
      const seq = stream.nextSeq;
      await stream.flush();
      if (!(await saveCheckpoint(db, { id, fence, value: json, seq }))) lose('a checkpoint found the row at another fence');
    },
    transaction: (effects) =>
      db.transaction().execute(async (trx) => {
        controller.signal.throwIfAborted();
        if (!(await lockFence(trx, id, fence, options.ttlMs))) lose('a transaction found the row at another fence');
        return effects(trx);
      }),
    keyFor: (step) => `${id}:${step}`,
  };
}

const TEED_LEVELS = ['info', 'warn', 'error', 'fatal'] as const;

/** A logger whose lines also show in Bull Board, under the job. */
function teeToDelivery(log: Logger, delivery: Job): Logger {
  const teed = Object.create(log) as Logger;
  for (const level of TEED_LEVELS) {
    teed[level] = (...args: unknown[]) => {
      (log[level] as (...args: unknown[]) => void)(...args);
      if (!log.isLevelEnabled(level)) return;
      const message = args.find((arg) => typeof arg === 'string') ?? '';
      delivery.log(`${level}: ${String(message)}`).catch(() => undefined);
    };
  }
  return teed;
}
