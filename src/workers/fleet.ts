/** A fleet in one process: the client, and on demand BullMQ workers that run its jobs. */
import { type Job, Worker } from 'bullmq';
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { createJobClient, type JobClient } from '../client/client.ts';
import { findPolicies, type Retention, setPolicy, type TenantPolicy } from '../db/retention.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { InputInvalidError, type Issue, OncefleetError, toIssues } from '../errors.ts';
import { type AnyJobDefinition, definitionSchema } from '../jobs/define-job.ts';
import type { JobEvent } from '../journal/event.ts';
import { FinishedJobs } from '../maintenance/completed-job-trimmer.ts';
import type { Diagnosis } from '../maintenance/doctor/diagnosis.ts';
import { type DoctorOptions, diagnose } from '../maintenance/doctor/doctor.ts';
import { Reconciler } from '../maintenance/reconciler.ts';
import { addReport, emptyReport, Sweeper, type SweepReport, sweepOnce } from '../maintenance/sweeper.ts';
import {
  abortSignal,
  aFunction,
  MAX_TIMER_MS,
  parseOptions,
  RANGES,
  retention,
  tenantName,
  waitMs,
  wholeNumber,
} from '../options.ts';
import { Guard } from '../runs/guard.ts';
import { HandlerSlots } from '../runs/handler-slots.ts';
import type { JobSpec } from '../runs/spec.ts';
import { LeftJobs } from '../runtime/left-jobs.ts';
import { Runtime, type RuntimeOptions, runtimeIssues, runtimeShape } from '../runtime/runtime.ts';
import { lendRuntime } from '../runtime/shared-runtime.ts';
import { UnknownNames } from '../runtime/unknown-names.ts';
import { within } from '../util/with-timeout.ts';

export interface FleetOptions extends RuntimeOptions {
  jobs: readonly AnyJobDefinition[];
  /** Jobs run at once, per queue. Default 10. */
  concurrency?: number;
  /** How often the reconciler looks, ms. Default 5,000. */
  reconcileMs?: number;
  /** How long after its end a job keeps its events, ms; Infinity: as long as the job. Default 7 days. */
  streamRetentionMs?: number;
  /** How long after its end a job is kept, ms; Infinity: for good. Default 30 days. */
  jobRetentionMs?: number;
  /** How often finished streams are folded and old jobs removed, ms; 0: only by `sweep()`. Default 60,000. */
  sweepMs?: number;
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
  /**
   * Folds and removes what there is to fold and remove now, in batches; workers do it by themselves.
   *
   * @returns what it did; `busy`: another process was at it, and did the rest
   */
  sweep(options?: { signal?: AbortSignal }): Promise<SweepReport & { busy: boolean }>;
  /** Tenants whose retention is not the fleet's. */
  retentionPolicies(): Promise<TenantPolicy[]>;
  /**
   * Sets how long a tenant's finished jobs are kept, ms; Infinity: for good, null: as the fleet says.
   *
   * @throws InputInvalidError
   */
  setRetention(tenant: string, policy: { streamMs?: number | null; jobMs?: number | null }): Promise<void>;
  /**
   * Looks for every disagreement between Postgres and Redis, and repairs them if asked to. Safe
   * beside running workers.
   *
   * @throws OncefleetError SERVICE_MISSING without Redis; what Postgres throws when it is away
   */
  doctor(options?: DoctorOptions): Promise<Diagnosis>;
}

/** How long failed jobs stay visible in BullMQ. */
const KEEP_FAILED = { age: 7 * 24 * 3600, count: 50_000 };

/**
 * How often one of the workers looks for jobs whose BullMQ lock ran out, ms. It adds to the
 * time a dead worker's job waits beyond its lease; a look is one script call a queue.
 */
const STALLED_LOOK_MS = 500;

/** How long BullMQ waits before it tries again what Redis did not take, ms. */
const REDIS_RETRY_MS = 1_000;

/** How long a worker that starts waits until the pauses of its queues are in Redis, ms. */
const PAUSES_WAIT_MS = 2_000;

/** With nothing running any more, BullMQ gets this long to say goodbye to Redis, ms. */
const FAREWELL_MS = 3_000;

/** After an interrupt, handlers get this long before their process lets go of them, ms. */
const INTERRUPT_WAIT_MS = 7_000;

const fleetShape = {
  ...runtimeShape,
  jobs: z.array(definitionSchema, 'expected an array of what defineJob returns'),
  concurrency: wholeNumber(RANGES.concurrency).default(RANGES.concurrency.default),
  reconcileMs: wholeNumber(RANGES.reconcileMs).default(RANGES.reconcileMs.default),
  streamRetentionMs: retention(RANGES.streamRetentionMs).default(RANGES.streamRetentionMs.default),
  jobRetentionMs: retention(RANGES.jobRetentionMs).default(RANGES.jobRetentionMs.default),
  sweepMs: wholeNumber(RANGES.sweepMs).default(RANGES.sweepMs.default),
  shutdownMs: wholeNumber(RANGES.shutdownMs).default(RANGES.shutdownMs.default),
} satisfies Record<keyof FleetOptions, z.ZodType>;

/** What `createFleet` takes. */
export const fleetSchema = z.strictObject(fleetShape);

const workSchema = z.strictObject({
  jobs: z.array(z.string(), 'expected an array of job names').optional(),
  concurrency: wholeNumber(RANGES.concurrency).optional(),
});

const closeSchema = z.strictObject({
  timeoutMs: wholeNumber(RANGES.shutdownMs).optional(),
});

const sweepSchema = z.strictObject({ signal: abortSignal.optional() });

const tenantRetention = retention(RANGES.jobRetentionMs).nullable().optional();
const retentionSchema = z.strictObject({
  tenant: tenantName,
  streamMs: tenantRetention,
  jobMs: tenantRetention,
});

const doctorSchema = z.strictObject({
  fix: z.boolean().optional(),
  lookAgainMs: waitMs.refine((ms) => ms <= MAX_TIMER_MS, `expected at most ${MAX_TIMER_MS}`).optional(),
  onProgress: aFunction.optional(),
  signal: abortSignal.optional(),
} satisfies Record<keyof DoctorOptions, z.ZodType>);

/** @throws InputInvalidError options that do not make sense, all of them; nothing is opened then */
export function createFleet(options: FleetOptions): Fleet {
  const settings = parseFleetOptions('createFleet', options);
  const runtime = new Runtime(options);
  // As they were given: a schema's copy of a definition would not be the one the caller knows.
  const client = createJobClient(runtime, options.jobs);
  const workers = new Set<FleetWorker>();
  const retention = { streamMs: settings.streamRetentionMs, jobMs: settings.jobRetentionMs };
  const db = runtime.db.kysely;
  const fleet = Object.assign(Object.create(client) as JobClient, {
    db,
    async work(workOptions: { jobs?: readonly string[]; concurrency?: number } = {}) {
      const { jobs, concurrency } = parseOptions('work', workSchema, workOptions);
      const unknown = (jobs ?? []).filter((name) => !client.jobs.has(name));
      if (unknown.length > 0)
        throw new OncefleetError('JOB_NAME_UNKNOWN', `No job named ${unknown.join(', ')} is registered`);
      const names = jobs ?? [...client.jobs.keys()];
      const worker = await startWorker(runtime, client, {
        queues: new Set(names.map((name) => (client.jobs.get(name) as AnyJobDefinition).queue)),
        concurrency: concurrency ?? settings.concurrency,
        reconcileMs: settings.reconcileMs,
        sweepMs: settings.sweepMs,
        retention,
        shutdownMs: settings.shutdownMs,
      });
      workers.add(worker);
      return worker;
    },
    async sweep(sweepOptions: { signal?: AbortSignal } = {}) {
      const { signal } = parseOptions('sweep', sweepSchema, sweepOptions);
      const report = emptyReport();
      for (;;) {
        signal?.throwIfAborted();
        const round = await sweepOnce(db, { retention, log: runtime.log, signal });
        if (round === undefined) return { ...report, busy: true };
        addReport(report, round.report);
        if (!round.more) return { ...report, busy: false };
      }
    },
    retentionPolicies: () => findPolicies(db),
    async setRetention(tenant: string, policy: { streamMs?: number | null; jobMs?: number | null }) {
      const isObject = typeof policy === 'object' && policy !== null;
      parseOptions('setRetention', retentionSchema, isObject ? { ...policy, tenant } : policy);
      await setPolicy(db, tenant, policy);
    },
    async doctor(doctorOptions: DoctorOptions = {}) {
      parseOptions('doctor', doctorSchema, doctorOptions);
      return diagnose(runtime, client.jobs, doctorOptions);
    },
    async close() {
      await Promise.all([...workers].map((worker) => worker.close()));
      await client.close();
    },
  });
  lendRuntime(fleet, runtime);
  return fleet;
}

/**
 * The options of a fleet, with their defaults.
 *
 * @throws InputInvalidError
 */
export function parseFleetOptions(what: string, options: FleetOptions): z.output<typeof fleetSchema> {
  return parseOptions(what, fleetSchema, options, (given) => [...runtimeIssues(given), ...sameNames(given['jobs'])]);
}

function sameNames(jobs: unknown): Issue[] {
  if (!Array.isArray(jobs)) return [];
  const names = jobs.map((job: { name?: unknown } | null | undefined) => job?.name);
  return names.flatMap((name, i) =>
    typeof name === 'string' && names.indexOf(name) < i
      ? [{ path: `jobs[${i}].name`, message: `another job is named "${name}"` }]
      : [],
  );
}

async function startWorker(
  runtime: Runtime,
  client: JobClient,
  options: {
    queues: ReadonlySet<string>;
    concurrency: number;
    reconcileMs: number;
    sweepMs: number;
    retention: Retention;
    shutdownMs: number;
  },
): Promise<FleetWorker> {
  const { leaseTtlMs } = runtime.settings;
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

  const allSlots: HandlerSlots[] = [];
  const workers = [...options.queues].map((queue) => {
    const slots = new HandlerSlots({
      concurrency: options.concurrency,
      setDeliveries: (count) => {
        worker.concurrency = count;
      },
    });
    allSlots.push(slots);
    const worker = new Worker(queue, (job, token) => process(job, token, slots), {
      connection: runtime.redis,
      prefix: runtime.queuePrefix(queue),
      concurrency: options.concurrency,
      // BullMQ's lock lives as long as our lease, so that a dead worker's job comes back when its lease is over.
      lockDuration: leaseTtlMs,
      stalledInterval: STALLED_LOOK_MS,
      // BullMQ's own 15 s, after a command that found Redis away, would be most of an outage's cost.
      runRetryDelay: REDIS_RETRY_MS,
      // A frozen worker keeps the wake-up of the next job to itself for so long, s.
      drainDelay: 1,
      removeOnFail: KEEP_FAILED,
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
  const leftJobs = new LeftJobs({
    runtime,
    names: new Set(specs.keys()),
    queues: options.queues,
    hasRoom: () => guard.size < options.concurrency,
  });
  leftJobs.start();
  const forgetAlerts = runtime.poisonAlerts.know([...specs.values()], options.reconcileMs);
  const finished = new FinishedJobs({ redis: runtime.redis, workers, log: runtime.log });
  const sweeper = new Sweeper({
    db: runtime.db.kysely,
    log: runtime.log,
    retention: options.retention,
    intervalMs: options.sweepMs,
  });
  if (options.sweepMs > 0) sweeper.start();
  runtime.log.info({ queues: [...options.queues], concurrency: options.concurrency }, 'worker started');

  let closing: Promise<void> | undefined;
  const close = async (timeoutMs: number): Promise<void> => {
    runtime.log.info({ running: guard.size, timeoutMs }, 'worker closing');
    finished.close();
    leftJobs.close();
    forgetAlerts();
    let drained = false;
    // Before anything that takes time: a job that starts now has less of it than it was promised.
    const ended = workers.map((worker) => worker.close());
    // After BullMQ has stopped fetching, or it would hand back what it is given.
    for (const slots of allSlots) slots.close();
    const closed = Promise.all(ended).then(() => {
      drained = true;
    });
    const housekeeping = Promise.all([reconciler.close(), sweeper.close()]);
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

/** Has Redis know which of these queues are paused. Without Redis or Postgres the reconciler does it later. */
async function obeyPauses(runtime: Runtime, queues: readonly string[]): Promise<void> {
  const aligned = runtime.pauses
    .align(queues.map((queue) => runtime.dispatcher.queue(queue)))
    .catch((err: unknown) => runtime.log.warn({ err }, 'pauses not looked up; the reconciler will do it'));
  await within(PAUSES_WAIT_MS, aligned, () => undefined);
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
    transparent: false,
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
