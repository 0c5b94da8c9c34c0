import { DelayedError, type Job, WaitingError } from 'bullmq';
import { crashPoint } from '../crash-points.ts';
import type { ClaimAnswer } from '../db/jobs/claim.ts';
import { clampWhole, MAX_INT } from '../numbers.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { decideRetry } from './bullmq-errors.ts';
import type { Slot } from './handler-slots.ts';
import type { RunRegistry } from './run-registry.ts';
import type { JobSpec } from './spec.ts';
import { type SettledVerdict, toUnrecoverable } from './verdict.ts';

/** A delivery is deferred no longer than this while one owner has its job. */
const DEFERRAL_LIMIT_MS = 24 * 3600 * 1000;

/** What the deliveries of one guard share. */
export interface GuardHost {
  readonly runtime: Runtime;
  readonly registry: RunRegistry;
}

/** BullMQ handing a job over once, and the ways to give it back. */
export class Delivery {
  readonly #host: GuardHost;
  readonly job: Job;
  readonly token: string | undefined;
  /** BullMQ's own, which its `cancelJob` aborts. */
  readonly signal: AbortSignal | undefined;
  readonly spec: JobSpec;
  readonly slot: Slot | undefined;
  /** As BullMQ counts. What the processor sees of it may be more, after a flush. */
  readonly attemptsMade: number;

  constructor(
    host: GuardHost,
    { job, token, signal, spec, slot }: Pick<Delivery, 'job' | 'token' | 'signal' | 'spec' | 'slot'>,
  ) {
    this.#host = host;
    this.job = job;
    this.token = token;
    this.signal = signal;
    this.spec = spec;
    this.slot = slot;
    this.attemptsMade = clampWhole(job.attemptsMade, { min: 0, max: MAX_INT, default: 0 });
  }

  /** The same for each delivery of a BullMQ job. */
  get bullJob(): string {
    return `${this.job.queueName}/${this.job.id}`;
  }

  get leaseTtlMs(): number {
    return this.spec.policy.lease?.ttlMs ?? this.#host.runtime.settings.leaseTtlMs;
  }

  /** Waits for a slot. @returns false: this process ends, or none came free in time */
  mayStart(): boolean | Promise<boolean> {
    if (this.#host.registry.closing) return false;
    return this.slot === undefined || this.slot.tryTake() || this.slot.take();
  }

  /** Moves the job back to its queue: the next free worker has it. */
  async requeue(): Promise<never> {
    const { registry, runtime } = this.#host;
    if (registry.abandoned) throw new WaitingError();
    await this.job
      .moveToWait(this.token ?? '')
      .catch((err: unknown) => runtime.log.debug({ err }, 'job not moved back to wait'));
    throw new WaitingError();
  }

  /** Has BullMQ deliver the job again later. It costs no attempt. */
  async defer(waitMs: number): Promise<never> {
    // Redis is unreachable or the lock is lost: BullMQ's stalled check brings the delivery back.
    await this.job
      .moveToDelayed(Date.now() + Math.round(waitMs), this.token)
      .catch((err: unknown) => this.#host.runtime.log.debug({ err }, 'job not moved to delayed'));
    throw new DelayedError();
  }

  /** Another owner is alive: the delivery comes again when that lease would expire, or as soon as its run finishes. */
  async deferToOwner(
    jobId: string,
    { leaseLeftMs, heldMs }: Extract<ClaimAnswer, { decision: 'held' }>,
  ): Promise<never> {
    if (heldMs > DEFERRAL_LIMIT_MS) {
      throw toUnrecoverable({
        code: 'LEASE_HELD',
        message: `Job ${jobId} was still running elsewhere after ${DEFERRAL_LIMIT_MS} ms`,
      });
    }
    const waitMs = Math.max(leaseLeftMs, 0) + 50 + Math.random() * 250;
    crashPoint('defer.before');
    const { hub, log } = this.#host.runtime;
    const promote = () => {
      stop();
      this.job.promote().catch((err: unknown) => log.debug({ err, jobId }, 'deferred delivery not promoted early'));
    };
    const stop = (): void => {
      clearTimeout(timer);
      unsubscribe();
    };
    const timer = setTimeout(() => stop(), waitMs);
    timer.unref();
    const unsubscribe = hub.subscribe(jobId, {
      onBatch: (message) => message.end && promote(),
      onGap: () => undefined,
    });
    log.debug({ jobId, waitMs: Math.round(waitMs) }, 'delivery deferred: the lease is held');
    return this.defer(waitMs);
  }

  /** Tells BullMQ what the committed verdict means for it: what its processor returns or throws. */
  answer(verdict: SettledVerdict): unknown {
    switch (verdict.kind) {
      case 'completed':
        return verdict.result === null ? undefined : JSON.parse(verdict.result);
      case 'failed':
        decideRetry(this.job, undefined);
        throw verdict.error;
      case 'cancelled':
        throw toUnrecoverable(verdict.failure);
      case 'retry':
        if (verdict.undecided !== true) decideRetry(this.job, verdict.delayMs);
        throw verdict.error;
      case 'deferred':
        throw verdict.error;
      case 'interrupted':
        return this.requeue();
      default:
        return verdict satisfies never;
    }
  }
}
