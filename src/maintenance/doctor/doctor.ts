/**
 * Examines a fleet: every disagreement between Postgres and Redis, and settings that will cause an
 * incident. Beside a live fleet rows and BullMQ's jobs move between two reads, so whatever looks
 * wrong is checked again after a pause, and only what is still wrong is reported.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { findQueues, findServerState } from '../../db/doctor.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { within } from '../../util/with-timeout.ts';
import { findQueueNames } from '../bullmq-jobs.ts';
import { findTroubles } from './checks.ts';
import { type Diagnosis, toFindings } from './diagnosis.ts';
import { comparePauses, findPauseDifferences } from './pauses.ts';
import { REDIS_WAIT_MS, repair } from './repair.ts';
import { Scan, type Suspect } from './scan.ts';

/** Jobs repaired at once: BullMQ is given concurrent dispatches in one command. */
const REPAIRED_AT_ONCE = 200;

/** Between the scan and the check of its suspects: longer than an enqueue may take to dispatch. */
const LOOK_AGAIN_MS = 2_000;

export interface DoctorOptions {
  /** Repair what can be repaired. Default false. */
  fix?: boolean;
  /** Pause before suspects are checked again, in milliseconds; an enqueue must have dispatched in it. Default 2,000. */
  lookAgainMs?: number;
  onProgress?(progress: { done: number; total?: number; message: string }): void;
  signal?: AbortSignal;
}

/** @throws OncefleetError SERVICE_MISSING without Redis; the signal's reason; what Postgres throws when it is unreachable */
export async function diagnose(
  runtime: Runtime,
  jobs: ReadonlyMap<string, AnyJobDefinition>,
  options: DoctorOptions = {},
): Promise<Diagnosis> {
  await requireRedis(runtime);
  return new Doctor(runtime, jobs, options).diagnose();
}

class Doctor {
  readonly #runtime: Runtime;
  readonly #jobs: ReadonlyMap<string, AnyJobDefinition>;
  readonly #options: DoctorOptions;
  readonly #scan: Scan;

  constructor(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>, options: DoctorOptions) {
    this.#runtime = runtime;
    this.#jobs = jobs;
    this.#options = options;
    this.#scan = new Scan(runtime, jobs, (...progress) => this.#progress(...progress));
  }

  async diagnose(): Promise<Diagnosis> {
    const runtime = this.#runtime;
    const fix = this.#options.fix === true;
    const server = await findServerState(runtime.db.kysely);
    for (const name of await findQueues(runtime.db.kysely)) runtime.dispatcher.queue(name);
    for await (const name of findQueueNames(runtime)) runtime.dispatcher.queue(name);
    const troubles = await findTroubles(runtime, this.#jobs, server);
    const suspects = await this.#scan.findSuspects(server.unfinished);
    const differences = await findPauseDifferences(runtime);
    if (suspects.length + troubles.length + differences.size > 0)
      await delay(this.#options.lookAgainMs ?? LOOK_AGAIN_MS, undefined, { signal: this.#options.signal });
    const found = await this.#scan.confirm(suspects);
    // Before the troubles, which report paused queues.
    const pauses = await comparePauses(runtime, differences, fix);
    // A fleet that has just started has done no round, and its workers are not connected yet.
    const remaining =
      troubles.length === 0 ? [] : await findTroubles(runtime, this.#jobs, await findServerState(runtime.db.kysely));
    const left = fix && found.length > 0 ? await this.#repairAll(found) : found;
    const findings = [...toFindings(found, left, fix), ...pauses, ...remaining];
    return {
      findings,
      looked: this.#scan.looked,
      well: findings.every((finding) => finding.count > 0 && finding.repaired === finding.count),
    };
  }

  /** @returns those that are still wrong */
  async #repairAll(found: readonly Suspect[]): Promise<Suspect[]> {
    for (let i = 0; i < found.length; i += REPAIRED_AT_ONCE) {
      this.#progress('repairing', i, found.length);
      const page = found.slice(i, i + REPAIRED_AT_ONCE);
      await Promise.all(page.map((suspect) => repair(this.#runtime, this.#jobs, suspect, this.#options.signal)));
    }
    return this.#scan.confirm(found);
  }

  #progress(message: string, done: number, total?: number): void {
    this.#options.signal?.throwIfAborted();
    this.#options.onProgress?.({ done, message, ...(total === undefined ? {} : { total: Math.max(total, done) }) });
  }
}

/** Waits for the connection, which may be young. @throws OncefleetError SERVICE_MISSING */
async function requireRedis(runtime: Runtime): Promise<void> {
  await within(REDIS_WAIT_MS, runtime.redis.ping(), () => {
    throw new OncefleetError('SERVICE_MISSING', `Redis has not answered for ${REDIS_WAIT_MS / 1_000} s`);
  });
}
