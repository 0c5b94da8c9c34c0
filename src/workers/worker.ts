/** A worker: BullMQ workers for some queues of a fleet, and the maintenance that runs beside them. */
import type { Job, Worker } from 'bullmq';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { Ticker } from '../client/schedules/ticker.ts';
import type { Retention } from '../db/retention.ts';
import { queueErrorLevel } from '../enqueue/queue-errors.ts';
import { FinishedJobs } from '../maintenance/completed-job-trimmer.ts';
import { Reconciler } from '../maintenance/reconciler.ts';
import { Sweeper } from '../maintenance/sweeper.ts';
import { parseOptions, RANGES, wholeNumber } from '../options.ts';
import { Guard } from '../runs/guard.ts';
import { HandlerSlots } from '../runs/handler-slots.ts';
import { LeftJobs } from '../runtime/left-jobs.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { UnknownNames } from '../runtime/unknown-names.ts';
import { within } from '../util/with-timeout.ts';
import { PatientWorker } from './patient-worker.ts';
import { toSpec } from './spec.ts';

export interface FleetWorker {
  /** As in leases and the ledger. */
  readonly id: string;
  /** Takes no new jobs, waits for running ones, interrupts them at the deadline. Idempotent. */
  close(options?: { timeoutMs?: number }): Promise<void>;
  /** Interrupts running jobs now; they are released for other workers. */
  interrupt(): void;
}

/** How long failed jobs stay visible in BullMQ. */
const KEEP_FAILED = { age: 7 * 24 * 3600, count: 50_000 };

/**
 * How often one of the workers looks for jobs whose BullMQ lock ran out. It adds to the
 * time a dead worker's job waits beyond its lease; a look is one script call a queue.
 */
const STALLED_LOOK_MS = 500;

/** How long BullMQ waits before it tries again what Redis did not take. */
const REDIS_RETRY_MS = 1_000;

/** How long a worker that starts waits until the pauses of its queues are in Redis. */
const PAUSES_WAIT_MS = 2_000;

/** With nothing running any more, BullMQ gets this long to say goodbye to Redis. */
const FAREWELL_MS = 3_000;

/** After an interrupt, handlers get this long before their process lets go of them. */
const INTERRUPT_WAIT_MS = 7_000;

const closeSchema = z.strictObject({
  timeoutMs: wholeNumber(RANGES.shutdownMs).optional(),
});

interface WorkerOptions {
  queues: ReadonlySet<string>;
  concurrency: number;
  reconcileMs: number;
  sweepMs: number;
  retention: Retention;
  shutdownMs: number;
}

export async function startWorker(runtime: Runtime, client: JobClient, options: WorkerOptions): Promise<FleetWorker> {
  await Promise.all([runtime.requirePostgres(), runtime.requireRedis([...options.queues])]);
  const guard = new Guard(runtime);
  const unknownNames = new UnknownNames(runtime);
  await obeyPauses(runtime, [...options.queues]);
  const specs = new Map([...client.jobs].map(([name, job]) => [name, toSpec(job)]));

  // Two parameters: BullMQ makes a signal for each job of a processor that declares three, and
  // nobody but this process, which interrupts by itself, has the worker to cancel a job with.
  const process = async (job: Job, token: string | undefined, slots: HandlerSlots): Promise<unknown> => {
    const spec = specs.get(job.name);
    if (spec === undefined) return unknownNames.leave(job, token);
    return guard.deliver(job, token, undefined, spec, slots);
  };

  const started = [...options.queues].map((queue) => startQueue(runtime, queue, options.concurrency, process));
  const workers = started.map(({ worker }) => worker);
  const reconciler = new Reconciler({ runtime, jobs: client.jobs, intervalMs: options.reconcileMs });
  reconciler.start();
  const leftJobs = new LeftJobs({
    runtime,
    names: new Set(specs.keys()),
    queues: options.queues,
    hasRoom: () => guard.size < options.concurrency,
  });
  leftJobs.start();
  const ticker = new Ticker({ runtime, jobs: client.jobs });
  ticker.start();
  const forgetAlerts = runtime.poisonAlerts.know([...specs.values()], options.reconcileMs);
  const finished = new FinishedJobs({ redis: runtime.redis, workers, log: runtime.log });
  const sweeper = new Sweeper({
    db: runtime.db.kysely,
    log: runtime.log,
    retention: options.retention,
    expired: (jobs) => runtime.transitions.expired(jobs),
    intervalMs: options.sweepMs,
  });
  if (options.sweepMs > 0) sweeper.start();
  runtime.log.info({ queues: [...options.queues], concurrency: options.concurrency }, 'worker started');

  let closing: Promise<void> | undefined;
  const parts = { runtime, guard, workers, allSlots: started.map(({ slots }) => slots), reconciler, sweeper, ticker };
  const close = async (timeoutMs: number): Promise<void> => {
    runtime.log.info({ running: guard.size, timeoutMs }, 'worker closing');
    finished.close();
    leftJobs.close();
    forgetAlerts();
    await closeParts(parts, timeoutMs);
    runtime.log.info('worker closed');
  };
  return {
    id: runtime.workerId,
    async close(closeOptions = {}) {
      const { timeoutMs } = parseOptions('close', closeSchema, closeOptions);
      closing ??= close(timeoutMs ?? options.shutdownMs);
      return closing;
    },
    interrupt: () => guard.interrupt(),
  };
}

/** A BullMQ worker that passes each job of a queue to `process`. */
function startQueue(
  runtime: Runtime,
  queue: string,
  concurrency: number,
  process: (job: Job, token: string | undefined, slots: HandlerSlots) => Promise<unknown>,
): { worker: Worker; slots: HandlerSlots } {
  const slots = new HandlerSlots({
    concurrency,
    setDeliveries: (count) => {
      worker.concurrency = count;
    },
  });
  const worker = new PatientWorker(queue, (job, token) => process(job, token, slots), {
    connection: runtime.redis,
    prefix: runtime.queuePrefix(queue),
    concurrency,
    // BullMQ's lock lives as long as our lease, so that a dead worker's job comes back when its lease is over.
    lockDuration: runtime.settings.leaseTtlMs,
    stalledInterval: STALLED_LOOK_MS,
    // BullMQ's own 15 s, after a command that found Redis unreachable, would be most of an outage's cost.
    runRetryDelay: REDIS_RETRY_MS,
    // A frozen worker keeps the wake-up of the next job to itself for this long, in seconds.
    drainDelay: 1,
    removeOnFail: KEEP_FAILED,
    // A stall is a delivery like any other; the row counts crashes.
    maxStalledCount: Number.MAX_SAFE_INTEGER,
  });
  worker.on('error', (err) => runtime.log[queueErrorLevel(err)]({ err, queue }, 'BullMQ worker error'));
  return { worker, slots };
}

interface Parts {
  runtime: Runtime;
  guard: Guard;
  workers: readonly Worker[];
  allSlots: readonly HandlerSlots[];
  reconciler: Reconciler;
  sweeper: Sweeper;
  ticker: Ticker;
}

/** Stops fetching, waits for running jobs, and interrupts them after `timeoutMs`. */
async function closeParts(parts: Parts, timeoutMs: number): Promise<void> {
  const { runtime, guard, workers, allSlots, reconciler, sweeper, ticker } = parts;
  let drained = false;
  // Before anything that takes time: a job that starts now has less of it than it was promised.
  const ended = workers.map((worker) => worker.close());
  // After BullMQ has stopped fetching, or it would hand back what it is given.
  for (const slots of allSlots) slots.close();
  const closed = Promise.all(ended).then(() => {
    drained = true;
  });
  const housekeeping = Promise.all([reconciler.close(), sweeper.close(), ticker.close()]);
  const timers = [
    setTimeout(() => guard.interrupt({ forGood: true }), timeoutMs),
    setTimeout(() => guard.stopWaiting(), timeoutMs + INTERRUPT_WAIT_MS),
  ];
  try {
    // BullMQ waits for ever for a Redis that went away (and came back at the wrong moment);
    // outcomes are in Postgres, so nothing is lost by leaving it.
    while (!drained) {
      await Promise.race([closed, guard.idle().then(() => within(FAREWELL_MS, closed, () => undefined))]);
      if (!drained && guard.size === 0) {
        runtime.log.warn('BullMQ did not let go of Redis in time; leaving it');
        runtime.dropDuplicates();
        break;
      }
    }
    await housekeeping;
  } finally {
    timers.forEach(clearTimeout);
  }
}

/** Has Redis know which of these queues are paused. Without Redis or Postgres the reconciler does it later. */
async function obeyPauses(runtime: Runtime, queues: readonly string[]): Promise<void> {
  const aligned = runtime.pauses
    .align(queues.map((queue) => runtime.dispatcher.queue(queue)))
    .catch((err: unknown) => runtime.log.warn({ err }, 'pauses not looked up; the reconciler will do it'));
  await within(PAUSES_WAIT_MS, aligned, () => undefined);
}
