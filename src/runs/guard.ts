/**
 * What happens to a delivery: BullMQ hands over a job, the claim table says what becomes of
 * it, and a run that owns the lease ends in one fenced transaction before BullMQ is told.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Job } from 'bullmq';
import { crashPoint } from '../crash-points.ts';
import type { ClaimAnswer } from '../db/jobs/claim.ts';
import { attemptOf, limitOf } from '../db/jobs/states.ts';
import { isTransient } from '../db/transient.ts';
import { CancelledError, OncefleetError, toStoredFailure } from '../errors.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { traceAttempt } from '../util/tracing.ts';
import { Delivery } from './delivery.ts';
import { type HandlerSlots, Slot } from './handler-slots.ts';
import { OutcomeWriter } from './outcome-writer.ts';
import { type DeliveredRow, Rows, unguardedInput } from './rows.ts';
import { Run, type RunHost } from './run.ts';
import { RunRegistry } from './run-registry.ts';
import type { JobSpec } from './spec.ts';
import { runUnguarded } from './unguarded.ts';
import { toUnrecoverable } from './verdict.ts';

/** Claims without an answer that are remembered; what is forgotten costs a lease's TTL. */
const MAX_UNANSWERED = 10_000;

/** How often a claim is tried again at once while the row is locked. */
const BUSY_TRIES = 6;

const OUTAGE_MIN_MS = 500;
/** Longer pauses would outlast most outages: what met one is to run soon after it. */
const OUTAGE_MAX_MS = 5_000;

interface Claim {
  readonly row: DeliveredRow;
  readonly answer: ClaimAnswer;
  /** Monotonic ns: a lease counts from there. */
  readonly sentAt: bigint;
}

export class Guard {
  readonly #runtime: Runtime;
  readonly #registry = new RunRegistry();
  readonly #host: RunHost;
  /**
   * Owners of claims that failed without an answer, by BullMQ job: such a claim may have been
   * committed, and the job's next delivery is recognised by its owner. Never of a claim that
   * is still under way, or two deliveries could enter one run.
   */
  readonly #unanswered = new Map<string, string>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    const host = { runtime, registry: this.#registry };
    this.#host = { ...host, rows: new Rows(runtime), outcomes: new OutcomeWriter(host) };
    runtime.control.listen((jobId) => runtime.cancels.look(jobId));
  }

  /** Runs in progress. */
  get size(): number {
    return this.#registry.size;
  }

  /** Resolves when no run is in progress. */
  idle(): Promise<void> {
    return this.#registry.idle();
  }

  /**
   * Aborts every run; each is released for another worker and counted as an interruption.
   *
   * @param forGood also what has not started yet, such as a run whose claim is under way
   */
  interrupt({ forGood = false } = {}): void {
    this.#registry.interrupt(forGood);
  }

  /**
   * Interrupts every run, and leaves their jobs where BullMQ has them: after a forced close of its worker
   * they are no longer this process's to move, and BullMQ's stalled check brings them back.
   */
  abandon(): void {
    this.#registry.abandon();
  }

  /** Stops waiting for Postgres: what could not be settled is left to its lease. */
  stopWaiting(): void {
    this.#registry.stopWaiting();
  }

  /**
   * A BullMQ processor's work. Returns the job's result, computed now or stored.
   *
   * @throws UnrecoverableError the job has failed or was cancelled; DelayedError, WaitingError
   *   this delivery comes again and costs no attempt; any other error: retried by BullMQ with
   *   the delay the row was given
   */
  async deliver(
    job: Job,
    token: string | undefined,
    signal: AbortSignal | undefined,
    spec: JobSpec,
    slots?: HandlerSlots,
  ): Promise<unknown> {
    const slot = slots === undefined ? undefined : new Slot(slots);
    const delivery = new Delivery(this.#host, { job, token, signal, spec, slot });
    if (slot === undefined) return this.#deliver(delivery);
    try {
      return await this.#deliver(delivery);
    } finally {
      slot.letGo();
    }
  }

  async #deliver(delivery: Delivery): Promise<unknown> {
    const unanswered = this.#unanswered.get(delivery.bullJob);
    if (unanswered !== undefined) this.#unanswered.delete(delivery.bullJob);
    const owner = unanswered ?? this.#runtime.newOwner();
    let claim: Claim | undefined;
    try {
      claim = await this.#claim(owner, delivery);
    } catch (err) {
      if (!isTransient(err)) throw err;
      this.#keepOwner(delivery, owner);
      return this.#withoutStore(err, delivery);
    }
    if (claim !== undefined) return this.#obey(claim, delivery);
    if (unanswered !== undefined) this.#keepOwner(delivery, unanswered);
    return delivery.requeue();
  }

  #keepOwner({ bullJob }: Delivery, owner: string): void {
    if (this.#unanswered.size >= MAX_UNANSWERED) this.#unanswered.clear();
    this.#unanswered.set(bullJob, owner);
  }

  /** Finds the row and claims it. @returns undefined: this process may not start the job */
  async #claim(owner: string, delivery: Delivery): Promise<Claim | undefined> {
    const { rows } = this.#host;
    const row = await rows.find(delivery);
    // After the row is there: a foreign job that goes back to its queue counts as started before.
    if (!(await delivery.mayStart())) return undefined;
    if (delivery.spec.limits !== undefined) await this.#runtime.limits.define(delivery.spec.limits);
    crashPoint('claim.before');
    const claim = await this.#claimRow(row, owner, delivery);
    if (claim.answer.decision === 'claimed' && row.foreign) await rows.follow(claim.answer.job, row, delivery);
    return claim;
  }

  /** @param ran it has run already, while Postgres was unreachable */
  async #claimRow(row: DeliveredRow, owner: string, delivery: Delivery, ran = false): Promise<Claim> {
    const { job, spec, attemptsMade } = delivery;
    const request = {
      id: row.jobId,
      owner,
      ttlMs: delivery.leaseTtlMs,
      maxCrashes: spec.policy.maxCrashes ?? this.#runtime.settings.maxCrashes,
      delivery: attemptsMade,
      restarted: row.restarted ?? false,
      own: job.id === row.jobId,
      queue: job.queueName,
      as: row.as,
      // Around a user's own processor BullMQ says when a job runs.
      early: spec.transparent || ran,
    };
    for (let retry = 0; ; retry++) {
      const sentAt = process.hrtime.bigint();
      const answer = await this.#runtime.transitions.claim(request);
      if (answer.decision !== 'busy' || retry === BUSY_TRIES) return { row, answer, sentAt };
      await delay(2 ** retry * (2 + Math.random()));
    }
  }

  /** Postgres did not answer: the delivery comes again later, or runs without it if its job says so. */
  async #withoutStore(err: unknown, delivery: Delivery): Promise<unknown> {
    const { job, spec } = delivery;
    const input = unguardedInput(job);
    if (spec.policy.onStoreOutage === 'run' && input !== undefined) {
      if (!(await delivery.mayStart())) return delivery.requeue();
      return runUnguarded(this.#host, (...args) => this.#claimRow(...args, true), input.value, delivery);
    }
    this.#runtime.log.warn({ err, bullJobId: job.id }, 'Postgres is unreachable: delivery deferred');
    const waitMs = Math.min(OUTAGE_MIN_MS * 2 ** Math.min(job.attemptsStarted, 6), OUTAGE_MAX_MS);
    return delivery.defer(waitMs * (0.75 + Math.random() / 2));
  }

  /** Does what the claim table says. */
  async #obey({ row: { jobId }, answer, sentAt }: Claim, delivery: Delivery): Promise<unknown> {
    switch (answer.decision) {
      case 'claimed':
        return traceAttempt(
          { ...answer.job, attempt: attemptOf(answer.job), carrier: answer.job.options.trace },
          (trace) => new Run(this.#host, answer.job, sentAt, delivery, trace).execute(),
        );
      case 'completed':
        this.#runtime.log.debug({ jobId }, 'delivery of a completed job: result replayed');
        return answer.result === null ? undefined : JSON.parse(answer.result);
      case 'failed':
        throw toUnrecoverable(answer.error);
      case 'cancelled':
        throw toUnrecoverable(toStoredFailure(new CancelledError(jobId)));
      case 'retried':
        return this.#redrive(jobId, delivery);
      case 'held':
        return delivery.deferToOwner(jobId, answer);
      case 'early':
        this.#runtime.log.debug({ jobId, dueInMs: answer.dueInMs }, 'delivery deferred: the job is not due yet');
        return delivery.defer(Math.max(answer.dueInMs, 0) + 1);
      case 'limited':
        this.#runtime.log.debug({ jobId, limit: limitOf(answer.key) }, 'delivery deferred: a limit is met');
        // BullMQ keeps it until it is woken. Not all at one time, should nothing wake them.
        return delivery.defer(answer.backstopMs * (1 + Math.random() / 10));
      case 'busy':
        return delivery.defer(200 + Math.random() * 300);
      case 'end':
        return this.#finish(jobId, delivery);
      case 'refused':
        return this.#refuse(jobId, delivery);
      case 'missing':
        throw toUnrecoverable(toStoredFailure(new OncefleetError('JOB_NOT_FOUND', `No job ${jobId} in Postgres`)));
      default:
        return answer satisfies never;
    }
  }

  /** A person retried the job in BullMQ. */
  async #redrive(jobId: string, delivery: Delivery): Promise<unknown> {
    await this.#runtime.transitions.redrive(jobId, 'worker', 'ended');
    crashPoint('retry.redriven');
    this.#runtime.log.info({ jobId }, 'redriven by a retry in BullMQ');
    return this.#deliver(delivery);
  }

  /** Not dispatched by a fleet, or changed since. The job itself is delivered again by the reconciler. */
  #refuse(jobId: string, { job, bullJob }: Delivery): never {
    this.#runtime.log.warn(
      { jobId, bullJob, queue: job.queueName },
      "delivery refused: it calls its job by a name or a tenant that is not the row's; who else can write to this Redis?",
    );
    const message = `BullMQ delivered job ${jobId} under a name or tenant that is not its row's`;
    throw toUnrecoverable({ code: 'DELIVERY_REFUSED', message });
  }

  /** Ends a job that may not run any more, and answers its delivery. */
  async #finish(jobId: string, delivery: Delivery): Promise<unknown> {
    crashPoint('end.before');
    const finished = await this.#runtime.transitions.finish(jobId, {
      by: 'worker',
      definition: delivery.spec,
      committed: 'end.after',
      delivery: delivery.attemptsMade,
    });
    if (finished === undefined) return delivery.defer(200 + Math.random() * 300);
    await finished.alerted;
    throw toUnrecoverable(finished.error);
  }
}
