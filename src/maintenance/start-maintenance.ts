/**
 * What a fleet's workers do beside their jobs, for processes that have no fleet: guarded
 * processors too leave finished jobs behind, and rows that BullMQ has lost.
 */
import { z } from 'zod';
import { parseOptions, RANGES, retention, wholeNumber } from '../options.ts';
import type { JobObserver } from '../runtime/observers.ts';
import { type RuntimeOptions, runtimeIssues, runtimeShape } from '../runtime/runtime.ts';
import { shareRuntime } from '../runtime/shared-runtime.ts';
import type { Transitions } from '../runtime/transitions.ts';
import { Reconciler } from './reconciler.ts';
import { addReport, emptyReport, Sweeper, type SweepReport, sweepOnce } from './sweeper.ts';

export interface MaintenanceOptions extends RuntimeOptions {
  /** How often the reconciler looks for lost work, in milliseconds. Default 5,000. */
  reconcileMs?: number;
  /** How long after its end a job keeps its events, in milliseconds; Infinity: as long as the job. Default 7 days. */
  streamRetentionMs?: number;
  /** How long after its end a job is kept, in milliseconds; Infinity: for good. Default 30 days. */
  jobRetentionMs?: number;
  /** How often finished streams are folded and old jobs removed, in milliseconds; 0: only by `sweep()`. Default 60,000. */
  sweepMs?: number;
}

export interface Maintenance {
  /**
   * Folds and removes what there is to fold and remove now.
   *
   * @returns what it did; `busy`: another process was sweeping, and did the rest
   */
  sweep(): Promise<SweepReport & { busy: boolean }>;
  /**
   * Tells an observer of every transition that this process makes over these connections, until it is
   * closed: those of the reconciler and the sweeper, and of processors that share the connections.
   *
   * @returns ends that
   * @throws InputInvalidError it is no function
   */
  observe(observer: JobObserver): () => void;
  /** Stops it, and closes the connections to Postgres and Redis unless something else in this process shares them. Idempotent. */
  close(): Promise<void>;
}

const maintenanceSchema = z.strictObject({
  ...runtimeShape,
  reconcileMs: wholeNumber(RANGES.reconcileMs).default(RANGES.reconcileMs.default),
  streamRetentionMs: retention(RANGES.streamRetentionMs).default(RANGES.streamRetentionMs.default),
  jobRetentionMs: retention(RANGES.jobRetentionMs).default(RANGES.jobRetentionMs.default),
  sweepMs: wholeNumber(RANGES.sweepMs).default(RANGES.sweepMs.default),
} satisfies Record<keyof MaintenanceOptions, z.ZodType>);

/**
 * Starts the reconciler and the sweeper for guarded processors. Any number of processes may: one
 * of them works at a time. It shares its connections with processors that have the same settings.
 *
 * `maxCrashes` and `resultTtlMs` are those of the processors: jobs that it ends, it ends by them.
 *
 * @throws InputInvalidError options that do not make sense, all of them; nothing is opened then
 */
export function startMaintenance(options: MaintenanceOptions): Maintenance {
  const checked = parseOptions('startMaintenance', maintenanceSchema, options, runtimeIssues);
  const { reconcileMs, streamRetentionMs, jobRetentionMs, sweepMs, ...connections } = options;
  const share = shareRuntime(connections);
  const { runtime } = share;
  const db = runtime.db.kysely;
  const { log } = runtime;
  const { maxCrashes, resultTtlMs } = checked;
  const policies = { get: () => ({ policy: { maxCrashes, resultTtlMs } }) };
  const kept = { streamMs: checked.streamRetentionMs, jobMs: checked.jobRetentionMs };
  const reconciler = new Reconciler({ runtime, jobs: policies, intervalMs: checked.reconcileMs });
  reconciler.start();
  const expired: Transitions['expired'] = (jobs) => runtime.transitions.expired(jobs);
  const sweeper = new Sweeper({ db, log, retention: kept, expired, intervalMs: checked.sweepMs });
  if (checked.sweepMs > 0) sweeper.start();
  const observers: (() => void)[] = [];
  let closed: Promise<void> | undefined;
  return {
    async sweep() {
      const report = emptyReport();
      for (;;) {
        const round = await sweepOnce(db, { retention: kept, log, expired });
        if (round === undefined) return { ...report, busy: true };
        addReport(report, round.report);
        if (!round.more) return { ...report, busy: false };
      }
    },
    observe(observer) {
      const unobserve = runtime.observers.observe(observer);
      observers.push(unobserve);
      return unobserve;
    },
    close() {
      closed ??= (async () => {
        await Promise.all([reconciler.close(), sweeper.close()]);
        await runtime.observers.idle();
        for (const unobserve of observers) unobserve();
        await share.release();
      })();
      return closed;
    },
  };
}
