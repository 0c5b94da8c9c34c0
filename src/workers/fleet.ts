/** A fleet in one process: the client, and on demand BullMQ workers that run its jobs. */
import type { Kysely } from 'kysely';
import { z } from 'zod';
import { createJobClient, type JobClient } from '../client/client.ts';
import { TENANT_KEY } from '../db/jobs/states.ts';
import { findPolicies, setPolicy, type TenantPolicy } from '../db/retention.ts';
import type { Database } from '../db/schema.ts';
import { findTenantLimits, setTenantLimits, type TenantLimits } from '../db/tenant-limits.ts';
import { type Issue, OncefleetError } from '../errors.ts';
import { type AnyJobDefinition, definitionSchema } from '../jobs/define-job.ts';
import { tenantLimitsSchema } from '../jobs/limits.ts';
import type { Diagnosis } from '../maintenance/doctor/diagnosis.ts';
import { type DoctorOptions, diagnose } from '../maintenance/doctor/doctor.ts';
import { addReport, emptyReport, type SweepReport, sweepOnce } from '../maintenance/sweeper.ts';
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
import { Runtime, type RuntimeOptions, runtimeIssues, runtimeShape } from '../runtime/runtime.ts';
import { lendRuntime } from '../runtime/shared-runtime.ts';
import { type FleetWorker, startWorker } from './worker.ts';

export interface FleetOptions extends RuntimeOptions {
  jobs: readonly AnyJobDefinition[];
  /** Jobs run at once, per queue. Default 10. */
  concurrency?: number;
  /** How often the reconciler looks, in milliseconds. Default 5,000. */
  reconcileMs?: number;
  /** How long after its end a job keeps its events, in milliseconds; Infinity: as long as the job. Default 7 days. */
  streamRetentionMs?: number;
  /** How long after its end a job is kept, in milliseconds; Infinity: for good. Default 30 days. */
  jobRetentionMs?: number;
  /** How often finished streams are folded and old jobs removed, in milliseconds; 0: only by `sweep()`. Default 60,000. */
  sweepMs?: number;
  /** How long `close()` lets running jobs continue before it interrupts them, in milliseconds. Default 25,000. */
  shutdownMs?: number;
}

export interface Fleet extends JobClient {
  readonly db: Kysely<Database>;
  /**
   * Starts running jobs in this process.
   *
   * @param options.jobs names of the jobs whose queues to work; default all
   */
  work(options?: { jobs?: readonly string[]; concurrency?: number }): Promise<FleetWorker>;
  /**
   * Folds and removes what there is to fold and remove now, in batches; workers do it by themselves.
   *
   * @returns what it did; `busy`: another process was at it, and did the rest
   */
  sweep(options?: { signal?: AbortSignal }): Promise<SweepReport & { busy: boolean }>;
  /** Tenants whose retention is not the fleet's. */
  /** Tenants with limits or a weight of their own. */
  tenantLimits(): Promise<TenantLimits[]>;
  /**
   * Sets how many jobs of a tenant run at once, how many start in a time, and its share of a queue in which others wait too;
   * `null` takes it back, and what is left out stays. In force with the next claim; jobs that run already are not counted.
   *
   * @throws InputInvalidError
   */
  setTenantLimits(tenant: string, limits: Partial<Omit<TenantLimits, 'tenant'>>): Promise<void>;
  retentionPolicies(): Promise<TenantPolicy[]>;
  /**
   * Sets how long a tenant's finished jobs are kept, in milliseconds; Infinity: for good, null: as the fleet says.
   *
   * @throws InputInvalidError
   */
  setRetention(tenant: string, policy: { streamMs?: number | null; jobMs?: number | null }): Promise<void>;
  /**
   * Looks for every disagreement between Postgres and Redis, and repairs them if asked to. Safe
   * beside running workers.
   *
   * @throws OncefleetError SERVICE_MISSING without Redis; what Postgres throws when it is unreachable
   */
  doctor(options?: DoctorOptions): Promise<Diagnosis>;
}

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
  // Its methods are its own properties and need no `this`: they survive a spread, and can be taken out of it.
  return {
    ...client,
    ...lendRuntime(runtime),
    ...tenantLimitsOf(runtime),
    get queues() {
      return client.queues;
    },
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
        const round = await sweepOnce(db, {
          retention,
          log: runtime.log,
          expired: (jobs) => runtime.transitions.expired(jobs),
          signal,
        });
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
  };
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

function tenantLimitsOf({ db: { kysely: db }, limits }: Runtime): Pick<Fleet, 'tenantLimits' | 'setTenantLimits'> {
  return {
    tenantLimits: () => findTenantLimits(db),
    async setTenantLimits(tenant, given) {
      const isObject = typeof given === 'object' && given !== null;
      parseOptions('setTenantLimits', tenantLimitsSchema, isObject ? { ...given, tenant } : given);
      await setTenantLimits(db, tenant, given);
      // More may run now than before.
      limits.wake([TENANT_KEY + tenant]);
    },
  };
}
