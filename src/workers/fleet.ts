/** A fleet in one process: the client, and on demand BullMQ workers that run its jobs. */
import { setTimeout as delay } from 'node:timers/promises';
import { DelayedError, type Job, Worker } from 'bullmq';
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { InputInvalidError, OncefleetError, toIssues } from '../errors.ts';
import { createJobClient, type JobClient } from '../idempotency/client.ts';
import type { AnyJobDefinition } from '../idempotency/define-job.ts';
import { Guard, type JobSpec } from '../idempotency/guard.ts';
import { Runtime, type RuntimeOptions } from '../idempotency/runtime.ts';
import type { JobEvent } from '../journal/event.ts';
import { Reconciler } from './reconciler.ts';

export interface FleetOptions extends RuntimeOptions {
  jobs: readonly AnyJobDefinition[];
  /** Jobs run at once, per queue. Default 10. */
  concurrency?: number;
  /** How often the reconciler looks, ms. Default 5,000. */
  reconcileMs?: number;
  /** How long `close()` lets running jobs go on before it interrupts them, ms. Default 25,000. */
  shutdownMs?: number;
}

export interface FleetWorker {
  /** As in leases and the ledger. */
  readonly id: string;
  /** Takes no new jobs, waits for running ones, interrupts them at the deadline. Idempotent. */
  close(options?: { timeoutMs?: number }): Promise<void>;
  /** Interrupts running jobs now; they are released for other workers. */
  interrupt(): void;
}

export interface Fleet extends JobClient {
  readonly db: Kysely<Database>;
  /**
   * Starts running jobs in this process.
   *
   * @param options.jobs names of the jobs whose queues to work; all unless told
   */
  work(options?: { jobs?: readonly string[]; concurrency?: number }): Promise<FleetWorker>;
}

/** How long an unknown job waits for a worker that knows it, ms. */
const UNKNOWN_JOB_WAIT_MS = 5_000;

/**
 * How often one of the workers looks for jobs whose BullMQ lock ran out, ms. It adds to the
 * time a dead worker's job waits beyond its lease; a look is one script call a queue.
 */
const STALLED_LOOK_MS = 500;

/** With nothing running any more, BullMQ gets this long to say goodbye to Redis, ms. */
const FAREWELL_MS = 3_000;

/** After an interrupt, handlers get this long before their process lets go of them, ms. */
const INTERRUPT_WAIT_MS = 7_000;

export function createFleet(options: FleetOptions): Fleet {
  const runtime = new Runtime(options);
  const client = createJobClient(runtime, options.jobs);
  const workers = new Set<FleetWorker>();
  return Object.assign(Object.create(client) as JobClient, {
    db: runtime.db.kysely,
    async work(workOptions: { jobs?: readonly string[]; concurrency?: number } = {}) {
      const unknown = (workOptions.jobs ?? []).filter((name) => !client.jobs.has(name));
      if (unknown.length > 0)
        throw new OncefleetError('JOB_NAME_UNKNOWN', `No job named ${unknown.join(', ')} is registered`);
      const names = workOptions.jobs ?? [...client.jobs.keys()];
      const worker = await startWorker(runtime, client, {
        queues: new Set(names.map((name) => (client.jobs.get(name) as AnyJobDefinition).queue)),
        concurrency: workOptions.concurrency ?? options.concurrency ?? 10,
        reconcileMs: options.reconcileMs ?? 5_000,
        shutdownMs: options.shutdownMs ?? 25_000,
      });
      workers.add(worker);
      return worker;
    },
    async close() {
      await Promise.all([...workers].map((worker) => worker.close()));
      await client.close();
    },
  });
}

async function startWorker(
  runtime: Runtime,
  client: JobClient,
  options: { queues: ReadonlySet<string>; concurrency: number; reconcileMs: number; shutdownMs: number },
): Promise<FleetWorker> {
  const { leaseTtlMs, prefix } = runtime.settings;
  const guard = new Guard(runtime);
  const specs = new Map([...client.jobs].map(([name, job]) => [name, toSpec(job)]));

  // Three declared parameters: BullMQ hands the signal to nothing less.
  const process = async (job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<unknown> => {
    const spec = specs.get(job.name);
    if (spec === undefined) {
      runtime.log.warn(
        { jobName: job.name, queue: job.queueName },
        'job of a name this worker does not know: left to another',
      );
      await job.moveToDelayed(Date.now() + UNKNOWN_JOB_WAIT_MS, token);
      throw new DelayedError();
    }
    return guard.deliver(job, token, signal, spec);
  };

  const workers = [...options.queues].map((queue) => {
    const worker = new Worker(queue, process, {
      connection: runtime.redis,
      prefix,
      concurrency: options.concurrency,
      // BullMQ's lock lives as long as our lease, so that a dead worker's job comes back when its lease is over.
      lockDuration: leaseTtlMs,
      stalledInterval: STALLED_LOOK_MS,
      // A stall is a delivery like any other; the row counts crashes.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
    });
    // Of an outage the connection tells once; BullMQ would with every try.
    worker.on('error', (err) =>
      runtime.log[isTransient(err) ? 'debug' : 'warn']({ err, queue }, 'BullMQ worker error'),
    );
    return worker;
  });
  const reconciler = new Reconciler({ runtime, jobs: client.jobs, intervalMs: options.reconcileMs });
  reconciler.start();
  runtime.log.info({ queues: [...options.queues], concurrency: options.concurrency }, 'worker started');

  let closing: Promise<void> | undefined;
  const close = async (timeoutMs: number): Promise<void> => {
    runtime.log.info({ running: guard.size, timeoutMs }, 'worker closing');
    await reconciler.close();
    let drained = false;
    const closed = Promise.all(workers.map((worker) => worker.close())).then(() => {
      drained = true;
    });
    const timers = [
      setTimeout(() => guard.interrupt(), timeoutMs),
      setTimeout(() => guard.giveUp(), timeoutMs + INTERRUPT_WAIT_MS),
    ];
    try {
      // BullMQ waits for ever for a Redis that went away (and came back at the wrong moment);
      // outcomes are in Postgres, so nothing is lost by leaving it.
      while (!drained) {
        await Promise.race([closed, guard.idle().then(() => delay(FAREWELL_MS))]);
        if (!drained && guard.size === 0) {
          runtime.log.warn('BullMQ did not let go of Redis in time; leaving it');
          runtime.dropDuplicates();
          break;
        }
      }
    } finally {
      timers.forEach(clearTimeout);
    }
    runtime.log.info('worker closed');
  };
  return {
    id: runtime.workerId,
    close(closeOptions = {}) {
      closing ??= close(closeOptions.timeoutMs ?? options.shutdownMs);
      return closing;
    },
    interrupt: () => guard.interrupt(),
  };
}

function checkEvent(definition: AnyJobDefinition, event: JobEvent): void {
  const parsed = definition.events?.safeParse(event);
  if (parsed?.success === false)
    throw new InputInvalidError(`Event of job ${definition.name}`, toIssues(parsed.error.issues), 'EVENT_INVALID');
}

function toSpec(definition: AnyJobDefinition): JobSpec {
  return {
    name: definition.name,
    queue: definition.queue,
    policy: definition.policy,
    keyOf: () => undefined,
    checkEvent: definition.events === undefined ? undefined : (event) => checkEvent(definition, event),
    async handle(input, ctx) {
      const parsed = definition.input.safeParse(input);
      if (!parsed.success)
        throw new InputInvalidError(`Input of job ${definition.name}`, toIssues(parsed.error.issues));
      const result = await definition.run(parsed.data, ctx);
      if (definition.output === undefined) return result;
      const output = definition.output.safeParse(result);
      if (!output.success)
        throw new InputInvalidError(
          `Output of job ${definition.name}`,
          toIssues(output.error.issues),
          'OUTPUT_INVALID',
        );
      return output.data;
    },
    ...(definition.onPoison === undefined ? {} : { onPoison: definition.onPoison.bind(definition) }),
  };
}
