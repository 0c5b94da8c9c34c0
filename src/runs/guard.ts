/**
 * What happens to a delivery: BullMQ hands over a job, the claim table says what becomes of
 * it, and a run that owns the lease ends in one fenced transaction before BullMQ is told.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { DelayedError, type Job, WaitingError } from 'bullmq';
import { crashPoint } from '../crash-points.ts';
import type { ClaimAnswer, ClaimedJob } from '../db/jobs/claim.ts';
import { raiseFence } from '../db/jobs/fence.ts';
import { redriveJob } from '../db/jobs/redrive.ts';
import { findSettled, type Settlement, settleJobs } from '../db/jobs/settle.ts';
import { findJobBySource, type JobSource, saveInput, setSource, sourceRef } from '../db/jobs/source.ts';
import { asOwn } from '../db/own-schema.ts';
import { isTransient } from '../db/transient.ts';
import { fingerprint, inputJson } from '../enqueue/fingerprint.ts';
import { keyInData, namedRow, ownKey, sourceOf, toKey, withoutKey } from '../enqueue/foreign-job.ts';
import { readJobData } from '../enqueue/job-data.ts';
import {
  asError,
  CancelledError,
  InterruptedError,
  LeaseLostError,
  OncefleetError,
  toStoredFailure,
} from '../errors.ts';
import type { Backoff, JobContext, JobPolicy } from '../jobs/define-job.ts';
import type { JobEvent } from '../journal/event.ts';
import type { StreamWriter } from '../journal/writer.ts';
import { MAX_TIMER_MS } from '../options.ts';
import { finishJob } from '../runtime/finish-job.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { Bag, type Placed } from '../util/swap-list.ts';
import { within } from '../util/with-timeout.ts';
import { decideRetry } from './bullmq-errors.ts';
import { createContext, createUnguardedContext } from './context.ts';
import { type HandlerSlots, Slot } from './handler-slots.ts';
import { Stop } from './stop.ts';
import {
  attemptEvent,
  attemptOf,
  encodeResult,
  eventOf,
  isContinued,
  type SettledVerdict,
  settlementOf,
  toUnrecoverable,
  type Verdict,
  verdictByBullMQ,
  verdictOfAbort,
  verdictOfControlFlow,
  verdictOfError,
} from './verdict.ts';

/** A job as the guard needs it, made from a definition or around a plain processor. */
export interface JobSpec {
  name: string;
  queue: string;
  policy: JobPolicy;
  /**
   * Around a user's own processor: data, delays, retries, errors and cancels mean what BullMQ means by
   * them, and its queue is a part of the key's scope. Else the job is the fleet's own, defined by `defineJob`.
   */
  transparent: boolean;
  /** The idempotency key of a job that some other BullMQ client added, where its data do not say it. */
  keyOf(job: Job): string | undefined;
  /** What of such a job's data its fingerprint is made of; undefined: all but the key. @throws InputInvalidError */
  fingerprinted?: ((job: Job) => unknown) | undefined;
  checkEvent: ((event: JobEvent) => void) | undefined;
  /** @throws InputInvalidError */
  handle(input: unknown, ctx: JobContext, job: Job): Promise<unknown>;
  onPoison?(job: { jobId: string; tenant: string; name: string; crashes: number }): void | Promise<void>;
}

/** A handler that ignores its signal for so long is left behind; its writes are refused, ms. */
const ABANDON_AFTER_MS = 5_000;

/** Its worker was closed by force: nobody waits for it any more, but for what it says at once, in ms. */
const ABANDONED_WAIT_MS = 500;

/** Deliveries of a job are deferred no longer than this while one owner has it, ms. */
const DEFERRAL_LIMIT_MS = 24 * 3600 * 1000;

/** Claims without an answer that are remembered; what is forgotten costs a lease's TTL. */
const MAX_UNANSWERED = 10_000;

/** How often a claim is tried again at once while somebody holds the row's lock. */
const BUSY_TRIES = 6;

/** How long Redis may take to say what data a job has now, in ms. Then the next delivery brings them. */
const KEEP_DATA_WAIT_MS = 500;

/** Schedules that were warned of; what is forgotten is warned of again. */
const MAX_WARNED = 1_000;

/** How long the outcome of an unguarded run is offered to Postgres, ms. */
const UNGUARDED_SAVE_MS = 30_000;

const OUTAGE_MIN_MS = 500;
/** Longer pauses would outlast most outages: what met one is to run soon after it. */
const OUTAGE_MAX_MS = 5_000;

/** BullMQ handing a job over once. */
interface Delivery {
  readonly job: Job;
  readonly token: string | undefined;
  /** BullMQ's own, which its `cancelJob` aborts. */
  readonly signal: AbortSignal | undefined;
  readonly spec: JobSpec;
  readonly slot: Slot | undefined;
  /** As BullMQ counts. What the processor sees of it may be more, after a flush. */
  readonly attemptsMade: number;
}

/** The row of a delivery. */
interface DeliveredRow {
  readonly jobId: string;
  /** It was made from a BullMQ job around whose queue this guard stands, and follows it. */
  readonly foreign: boolean;
  /** Another BullMQ job with its key made it. */
  readonly adopted: boolean;
  /** BullMQ starts the very job that made it for the first time: somebody had its counts reset, to run it again. */
  readonly restarted?: boolean;
}

interface RunInProgress extends Placed {
  stop: Stop;
  jobId: string;
  stream: StreamWriter | undefined;
}

export class Guard {
  readonly #runtime: Runtime;
  readonly #runs = new Bag<RunInProgress>();
  /** Nothing starts any more: this process ends. */
  #over = false;
  #abandoned = false;
  /** Aborts what waits for a Postgres that is away, when the process must end. */
  readonly #giveUp = new AbortController();
  /**
   * Owners of claims that failed without an answer, by BullMQ job: such a claim may have been
   * committed, and the job's next delivery is recognised by its owner. Never of a claim that
   * is still under way, or two deliveries could enter one run.
   */
  readonly #unanswered = new Map<string, string>();
  readonly #warnedOf = new Set<string>();
  #waitingForIdle: (() => void)[] = [];

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    runtime.control.listen((jobId) => runtime.leases.cancel(jobId));
  }

  /** Runs in progress. */
  get size(): number {
    return this.#runs.size;
  }

  /** Resolves when no run is in progress. */
  idle(): Promise<void> {
    if (this.#runs.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waitingForIdle.push(resolve));
  }

  /**
   * Aborts every run; each is released for another worker and counted as an interruption.
   *
   * @param forGood also what has not started yet, such as a run whose claim is under way
   */
  interrupt({ forGood = false } = {}): void {
    this.#over ||= forGood;
    for (const { stop, jobId } of this.#runs.values()) stop.abort(new InterruptedError(jobId));
  }

  /**
   * Interrupts every run, and leaves their jobs where BullMQ has them: after a forced close of its worker
   * they are no longer this process's to move, and BullMQ's stalled check brings them back.
   */
  abandon(): void {
    this.#abandoned = true;
    this.interrupt({ forGood: true });
  }

  /** Stops waiting for Postgres: what could not be settled is left to its lease. */
  giveUp(): void {
    this.#giveUp.abort();
    // An outcome also waits for the events before it.
    for (const { stream } of this.#runs.values())
      stream?.refuse(new OncefleetError('STORE_UNAVAILABLE', 'The worker ended before Postgres had the events'));
  }

  /**
   * A BullMQ processor's work. Returns the job's result, at first hand or stored.
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
    const delivery: Delivery = { job, token, signal, spec, slot, attemptsMade: job.attemptsMade };
    if (slot === undefined) return this.#deliver(delivery);
    try {
      return await this.#deliver(delivery);
    } finally {
      slot.letGo();
    }
  }

  async #deliver(delivery: Delivery): Promise<unknown> {
    const { job, spec } = delivery;
    const deliveryId = `${job.queueName}/${job.id}`;
    const unanswered = this.#unanswered.get(deliveryId);
    const owner = unanswered ?? this.#runtime.newOwner();
    this.#unanswered.delete(deliveryId);
    let row: DeliveredRow;
    let claimSentAt: bigint;
    let answer: ClaimAnswer;
    try {
      row = await this.#findRow(delivery);
      // After the row is there: a foreign job that is handed back counts as started before.
      if (!(await this.#mayStart(delivery))) {
        if (unanswered !== undefined) this.#unanswered.set(deliveryId, unanswered);
        return this.#handBack(delivery);
      }
      crashPoint('claim.before');
      ({ answer, sentAt: claimSentAt } = await this.#claim(row, owner, delivery));
      if (answer.decision === 'claimed' && row.foreign) await this.#followBullMQ(answer.job, row, delivery);
    } catch (err) {
      if (!isTransient(err)) throw err;
      if (this.#unanswered.size >= MAX_UNANSWERED) this.#unanswered.clear();
      this.#unanswered.set(deliveryId, owner);
      const input = unguardedInput(job);
      if (spec.policy.onStoreOutage === 'run' && input !== undefined) {
        if (!(await this.#mayStart(delivery))) return this.#handBack(delivery);
        return this.#runUnguarded(input.value, delivery);
      }
      this.#runtime.log.warn({ err, bullJobId: job.id }, 'Postgres is unreachable: delivery deferred');
      const waitMs = Math.min(OUTAGE_MIN_MS * 2 ** Math.min(job.attemptsStarted, 6), OUTAGE_MAX_MS);
      return this.#defer(delivery, waitMs * (0.75 + Math.random() / 2));
    }
    const { jobId } = row;
    switch (answer.decision) {
      case 'claimed':
        return this.#run(answer.job, claimSentAt, delivery);
      case 'completed':
        this.#runtime.log.debug({ jobId }, 'delivery of a completed job: result replayed');
        return answer.result === null ? undefined : JSON.parse(answer.result);
      case 'failed':
        throw toUnrecoverable(answer.error);
      case 'cancelled':
        throw toUnrecoverable(toStoredFailure(new CancelledError(jobId)));
      case 'retried':
        await redriveJob(this.#runtime.db.kysely, jobId, 'ended');
        crashPoint('retry.redriven');
        this.#runtime.log.info({ jobId }, 'redriven by a retry in BullMQ');
        return this.#deliver(delivery);
      case 'held':
        return this.#deferToOwner(delivery, jobId, answer);
      case 'busy':
        return this.#defer(delivery, 200 + Math.random() * 300);
      case 'end':
        return this.#end(jobId, delivery);
      case 'missing':
        throw toUnrecoverable(toStoredFailure(new OncefleetError('JOB_NOT_FOUND', `No job ${jobId} in Postgres`)));
      default:
        return answer satisfies never;
    }
  }

  /** Waits for a slot. @returns false: this process ends, or none came free in time */
  #mayStart({ slot }: Delivery): boolean | Promise<boolean> {
    if (this.#over) return false;
    return slot === undefined || slot.tryTake() || slot.take();
  }

  /** The row that a delivery is about. A job that another BullMQ client added gets one here. */
  async #findRow(delivery: Delivery): Promise<DeliveredRow> {
    const { job, spec } = delivery;
    const own = readJobData(job);
    if (own !== undefined) return { jobId: own.jobId, foreign: spec.transparent, adopted: false };
    const source = sourceOf(job);
    const keyScope = spec.transparent ? `${source.prefix}:${source.queue}` : '';
    const rowId = namedRow(job);
    // A processor may change its job's data, also the key in them: a job that comes again is found by what it is.
    if (job.attemptsStarted > 1 || rowId !== undefined) {
      const ref = sourceRef(source);
      const found = await findJobBySource(this.#runtime.db.kysely, { ref, rowId: rowIdOf(job, rowId), keyScope });
      if (found !== undefined) return { jobId: found.id, foreign: spec.transparent, adopted: !found.isSource };
    }
    return this.#acceptForeign(delivery, source, keyScope);
  }

  async #acceptForeign({ job, spec }: Delivery, source: JobSource, keyScope: string): Promise<DeliveredRow> {
    const data: unknown = job.data;
    try {
      const given = toKey(spec.keyOf(job), 'key') ?? keyInData(data);
      if (given !== undefined && job.repeatJobKey !== undefined) this.#warnOfRepeated(job, given);
      const input = withoutKey(data);
      const { policy } = spec;
      const tenant = (data as { tenant?: unknown } | null | undefined)?.tenant;
      const accepted = await this.#runtime.acceptor.accept(
        {
          tenant: typeof tenant === 'string' ? tenant : this.#runtime.settings.tenant,
          name: spec.name,
          queue: spec.queue,
          key: given ?? ownKey(source),
          keyScope,
          source,
          fingerprint: fingerprint(spec.fingerprinted === undefined ? input : spec.fingerprinted(job)),
          input: inputJson(spec.transparent ? data : input),
          options: {
            priority: job.opts.priority ?? 0,
            attempts: job.opts.attempts ?? policy.attempts,
            backoff: foreignBackoff(job) ?? policy.backoff,
            ...(policy.publish === 'immediate' ? { publish: policy.publish } : {}),
            ...(given === undefined ? { keyless: true } : {}),
          },
          delayMs: 0,
          deadlineMs: policy.deadlineMs ?? null,
        },
        // A job that BullMQ starts again is no new enqueue: its failure stands.
        job.attemptsStarted > 1 ? 'replay' : policy.onFailedKey,
      );
      const isSource = accepted.outcome === 'created' || accepted.sourceRef === sourceRef(source);
      return {
        jobId: accepted.id,
        foreign: spec.transparent,
        adopted: !isSource,
        restarted: isSource && accepted.outcome === 'replayed' && job.attemptsStarted === 1,
      };
    } catch (error) {
      if (error instanceof OncefleetError) throw toUnrecoverable(toStoredFailure(error));
      throw error;
    }
  }

  /**
   * Keeps a claimed row at what BullMQ has: which of its jobs delivers it from now on, and that job's
   * data, which an earlier attempt or a person in Bull Board may have changed.
   */
  async #followBullMQ(claimed: ClaimedJob, row: DeliveredRow, { job, attemptsMade }: Delivery): Promise<void> {
    const db = this.#runtime.db.kysely;
    if (readJobData(job) !== undefined) {
      // Dispatched by an earlier version, which left the data behind.
      job.data = JSON.parse(claimed.input);
      return;
    }
    if (row.adopted) await setSource(db, claimed.id, sourceOf(job), claimed);
    if (job.attemptsStarted > 1 || row.adopted) {
      const input = inputJson(job.data);
      if (input !== claimed.input) await saveInput(db, claimed, input);
      claimed.input = input;
    }
    // Added again after a flush, BullMQ counts from zero.
    if (namedRow(job) === claimed.id) job.attemptsMade = Math.max(attemptsMade, claimed.errorCount);
  }

  /** Data that the processor has changed since the run began, for whatever dispatches the job again. */
  async #keepData(claimed: ClaimedJob, { job, spec }: Delivery): Promise<void> {
    if (!spec.transparent || inputJson(job.data) === claimed.input) return;
    const { redis, db, log } = this.#runtime;
    const asked = redis.hget(`${job.queueQualifiedName}:${job.id}`, 'data');
    // What BullMQ has, not what a processor did to its own copy.
    const data = await within(KEEP_DATA_WAIT_MS, asked, () => null).catch(() => null);
    if (data === null || data === claimed.input) return;
    await saveInput(db.kysely, claimed, data).catch((err: unknown) =>
      log.warn({ err, jobId: claimed.id }, 'changed data of the job not kept; its next delivery brings them'),
    );
  }

  /** A schedule gives each of its jobs the same data. Said once for each schedule. */
  #warnOfRepeated({ repeatJobKey = '', queueName, name }: Job, key: string): void {
    const schedule = `${queueName}\n${repeatJobKey}`;
    if (this.#warnedOf.has(schedule)) return;
    if (this.#warnedOf.size >= MAX_WARNED) this.#warnedOf.clear();
    this.#warnedOf.add(schedule);
    this.#runtime.log.warn(
      { queue: queueName, jobName: name, scheduler: repeatJobKey, keyBytes: Buffer.byteLength(key) },
      'The template of this job scheduler has an idempotencyKey: its first job runs, and all later ones only repeat the result. Take the key out of the template; each job of a scheduler runs once by its own id',
    );
  }

  async #claim(
    { jobId, restarted = false }: DeliveredRow,
    owner: string,
    delivery: Delivery,
  ): Promise<{ answer: ClaimAnswer; sentAt: bigint }> {
    const { settings } = this.#runtime;
    const { job, spec, attemptsMade } = delivery;
    const request = {
      id: jobId,
      owner,
      ttlMs: spec.policy.lease?.ttlMs ?? settings.leaseTtlMs,
      maxCrashes: spec.policy.maxCrashes ?? settings.maxCrashes,
      delivery: attemptsMade,
      restarted,
      own: job.id === jobId,
    };
    for (let retry = 0; ; retry++) {
      const sentAt = process.hrtime.bigint();
      const answer = await this.#runtime.claim(request);
      if (answer.decision !== 'busy' || retry === BUSY_TRIES) return { answer, sentAt };
      await delay(2 ** retry * (2 + Math.random()));
    }
  }

  async #run(claimed: ClaimedJob, claimSentAt: bigint, delivery: Delivery): Promise<unknown> {
    crashPoint('claim.after');
    const { job, signal: bullSignal, spec, slot } = delivery;
    const { id, fence } = claimed;
    const { leases, writer, settings } = this.#runtime;
    const ttlMs = spec.policy.lease?.ttlMs ?? settings.leaseTtlMs;
    const stop = new Stop();
    const completion: Completion = { settlement: undefined };
    const abort = (reason: Error) => stop.abort(reason);
    const stream = writer.open({
      streamId: id,
      fence,
      nextSeq: claimed.nextSeq,
      immediate: claimed.options.publish === 'immediate',
      onRefused: abort,
    });
    let blockedLoop = false;
    const lease = leases.hold({
      jobId: id,
      fence,
      ttlMs,
      claimSentAt,
      // A run that has completed itself has no lease to renew, and is not to be told so.
      onLost: (error, blocked) => {
        blockedLoop = blocked;
        if (completion.settlement === undefined) abort(error);
      },
      onCancel: () => abort(new CancelledError(id)),
    });
    // A user's processor hears BullMQ's own cancel, and what it makes of it is the outcome.
    const onBullAbort = () => {
      if (spec.transparent) stop.pass(bullSignal?.reason);
      else abort(new InterruptedError(id));
    };
    bullSignal?.addEventListener('abort', onBullAbort, { once: true });
    if (bullSignal?.aborted === true) {
      // A processor listens for a cancel once it runs; one that came during the claim is told then.
      if (spec.transparent) setImmediate(onBullAbort);
      else onBullAbort();
    }
    const timers = this.#startTimers(claimed, spec, abort);
    const run = { stop, jobId: id, stream, place: 0 };
    this.#runs.add(run);
    if (this.#over) abort(new InterruptedError(id));
    let verdict: Verdict;
    try {
      const attempt = attemptOf(claimed);
      const start = attemptEvent(claimed, attempt, spec.policy.onRetry);
      if (fence > 1 && !isContinued(claimed)) stream.append(JSON.stringify(start));
      const ctx = createContext({
        runtime: this.#runtime,
        delivery: job,
        claimed,
        attempt,
        start,
        stream,
        stop,
        ttlMs,
        checkEvent: spec.checkEvent,
        complete: async (trx, result) => {
          const verdict: Verdict = { kind: 'completed', result: encodeResult(result) };
          await stream.seal();
          // Not all that the run said can be kept: it has failed.
          if (stream.refused !== undefined) throw stream.refused;
          const settlement = await this.#plan(verdict, claimed, stream, delivery);
          lease.settling();
          const own = asOwn(trx, this.#runtime.db.schema);
          const accepted = await settleJobs(own, [settlement]);
          if (!accepted.has(settlement)) {
            const { settlement: first } = completion;
            if (first !== undefined && (await findSettled(own, [first])).has(first))
              throw new OncefleetError(
                'STREAM_CLOSED',
                `ctx.complete: job ${id} has its outcome already, by the first call`,
              );
            throw new LeaseLostError(id, fence, 'the completion found the row at another fence');
          }
          completion.settlement = settlement;
          crashPoint('complete.after');
        },
      });
      const startedAt = performance.now();
      verdict = await this.#judge(
        async () => spec.handle(JSON.parse(claimed.input), ctx, job),
        stop,
        claimed,
        delivery,
      );
      slot?.letGo(performance.now() - startedAt);
      timers?.stop();
      lease.settling();
      if (completion.settlement !== undefined && (await this.#hasCompleted(completion.settlement))) {
        verdict = { kind: 'completed', result: completion.settlement.result };
      } else {
        await this.#settle(verdict, claimed, stream, delivery);
      }
    } catch (err) {
      if (err instanceof LeaseLostError) {
        this.#runtime.log.warn({ err, jobId: id, fence }, 'run given up: its lease is lost');
        if (!blockedLoop && (await this.#giveBack(claimed, stream, delivery)))
          return this.#answer({ kind: 'interrupted' }, delivery);
        return this.#defer(delivery, 500 + Math.random() * 500);
      }
      if (isTransient(err) || this.#giveUp.signal.aborted) throw err;
      // Left alone, the lease would run out, and count as a crash of a worker that is well.
      this.#runtime.log.error({ err, jobId: id, fence }, 'outcome could not be written; settled as an error');
      verdict = verdictOfError(
        new OncefleetError('INTERNAL', 'The outcome of the run could not be written', { cause: err }),
        claimed,
      );
      await this.#settle(verdict, claimed, stream, delivery);
    } finally {
      timers?.stop();
      lease.release();
      bullSignal?.removeEventListener('abort', onBullAbort);
      this.#ended(run);
    }
    if (verdict.kind === 'lost') throw verdict.error;
    crashPoint('answer.before');
    return this.#answer(verdict, delivery);
  }

  /**
   * Runs a delivery although Postgres is away, as `onStoreOutage: 'run'` asks: no lease, so
   * another worker may run it too; no journal, so no reader sees its events; no checkpoints.
   * Its outcome is stored if Postgres comes back soon enough.
   */
  async #runUnguarded(input: unknown, delivery: Delivery): Promise<unknown> {
    const { job, slot } = delivery;
    const { log } = this.#runtime;
    const stop = new Stop();
    const jobId = readJobData(job)?.jobId ?? `${job.queueName}/${job.id}`;
    const run = { stop, jobId, stream: undefined, place: 0 };
    this.#runs.add(run);
    try {
      const value = await this.#handleUnguarded(input, stop, delivery);
      slot?.letGo();
      return await this.#saveUnguarded(encodeResult(value), delivery);
    } catch (err) {
      if (stop.reason === undefined) throw err;
      log.debug({ err, bullJobId: job.id }, 'unguarded run interrupted');
      return this.#handBack(delivery);
    } finally {
      this.#ended(run);
    }
  }

  #handleUnguarded(input: unknown, stop: Stop, { job, signal: bullSignal, spec }: Delivery): Promise<unknown> {
    const { log } = this.#runtime;
    log.error(
      { bullJobId: job.id, jobName: job.name },
      'Postgres is unreachable: running without lease and journal, as onStoreOutage says',
    );
    const { timeoutMs } = spec.policy;
    const signals = [bullSignal, timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs), stop.signal];
    const signal = AbortSignal.any(signals.filter((candidate) => candidate !== undefined));
    return spec.handle(input, createUnguardedContext(this.#runtime, job, signal), job);
  }

  /** Offers the outcome of an unguarded run to Postgres for a while. */
  async #saveUnguarded(result: string | null, delivery: Delivery): Promise<unknown> {
    const { job } = delivery;
    const { log } = this.#runtime;
    const saveUntil = performance.now() + UNGUARDED_SAVE_MS;
    for (
      let waitMs = 100;
      performance.now() < saveUntil && !this.#giveUp.signal.aborted;
      waitMs = Math.min(waitMs * 2, 2_000)
    ) {
      try {
        const row = await this.#findRow(delivery);
        const { jobId } = row;
        const { answer } = await this.#claim(row, this.#runtime.newOwner(), delivery);
        if (answer.decision !== 'claimed') break;
        const stream = this.#runtime.writer.open({
          streamId: jobId,
          fence: answer.job.fence,
          nextSeq: answer.job.nextSeq,
          onRefused: () => undefined,
        });
        await this.#runtime.settle(await this.#plan({ kind: 'completed', result }, answer.job, stream, delivery));
        return result === null ? undefined : JSON.parse(result);
      } catch (err) {
        if (!isTransient(err)) throw err;
        await delay(waitMs, undefined, { signal: this.#giveUp.signal }).catch(() => undefined);
      }
    }
    log.error(
      { bullJobId: job.id, jobName: job.name },
      'outcome of an unguarded run was not stored: the job may run again',
    );
    return result === null ? undefined : JSON.parse(result);
  }

  /** @returns undefined: the run has no limit in time */
  #startTimers(claimed: ClaimedJob, spec: JobSpec, abort: (reason: Error) => void): { stop(): void } | undefined {
    const { timeoutMs } = spec.policy;
    if (timeoutMs === undefined && claimed.deadlineLeftMs === null) return undefined;
    const timers: NodeJS.Timeout[] = [];
    if (timeoutMs !== undefined) {
      timers.push(
        setTimeout(
          () => abort(new OncefleetError('TIMEOUT', `The attempt ran longer than ${timeoutMs} ms`)),
          timeoutMs,
        ),
      );
    }
    if (claimed.deadlineLeftMs !== null) {
      const leftMs = Math.min(Math.max(claimed.deadlineLeftMs, 0), MAX_TIMER_MS);
      timers.push(
        setTimeout(
          () => abort(new OncefleetError('DEADLINE_EXCEEDED', 'The job was not finished by its deadline')),
          leftMs,
        ),
      );
    }
    return { stop: () => timers.forEach(clearTimeout) };
  }

  /** Runs the handler and says how the run ended. An abort that came first decides. */
  async #judge(
    handle: () => Promise<unknown>,
    stop: Stop,
    claimed: ClaimedJob,
    { job, spec }: Delivery,
  ): Promise<Verdict> {
    const ofError = (error: Error) => (spec.transparent ? verdictByBullMQ(error, job) : verdictOfError(error, claimed));
    if (stop.reason !== undefined) return verdictOfAbort(stop.reason) ?? ofError(stop.reason);
    let leaveTimer: NodeJS.Timeout | undefined;
    const end = await new Promise<{ value: unknown } | { error: Error } | { left: true }>((resolve) => {
      stop.listen(() => {
        leaveTimer = setTimeout(() => resolve({ left: true }), this.#abandoned ? ABANDONED_WAIT_MS : ABANDON_AFTER_MS);
      });
      handle().then(
        (value) => resolve({ value }),
        (thrown: unknown) => resolve({ error: asError(thrown) }),
      );
    });
    clearTimeout(leaveTimer);
    stop.unlisten();
    if ('left' in end)
      this.#runtime.log.error(
        { jobId: claimed.id, fence: claimed.fence },
        'handler ignored its signal and was left behind',
      );
    // Where BullMQ has the job already, an interruption has nothing to give back.
    const reason = stop.reason as Error | undefined;
    const moved = spec.transparent && 'error' in end ? verdictOfControlFlow(end.error, job) : undefined;
    if (moved !== undefined && (reason === undefined || reason instanceof InterruptedError)) return moved;
    // Even if the handler returned: many return early when told to stop.
    if (reason !== undefined) return verdictOfAbort(reason) ?? ofError(reason);
    if ('error' in end) return ofError(end.error);
    try {
      return { kind: 'completed', result: encodeResult('value' in end ? end.value : undefined) };
    } catch (error) {
      if (spec.transparent) return ofError(error as Error);
      const refused = new OncefleetError('OUTPUT_INVALID', (error as Error).message, { cause: error });
      return { kind: 'failed', failure: toStoredFailure(refused), error: refused };
    }
  }

  /** Commits the verdict at the run's fence. @throws LeaseLostError nothing was written */
  async #settle(verdict: Verdict, claimed: ClaimedJob, stream: StreamWriter, delivery: Delivery): Promise<void> {
    if (verdict.kind === 'lost') throw verdict.error;
    if (verdict.kind !== 'completed') await this.#keepData(claimed, delivery);
    const settlement = await this.#plan(verdict, claimed, stream, delivery);
    if (!(await this.#commit(settlement)))
      throw new LeaseLostError(claimed.id, claimed.fence, 'the outcome found the row at another fence');
    const { log } = this.#runtime;
    const failed = verdict.kind === 'failed' || verdict.kind === 'retry';
    if (!failed && !log.isLevelEnabled('debug')) return;
    const { outcome, status } = settlement;
    const ids = { jobId: claimed.id, fence: claimed.fence, outcome, status };
    if (failed) log.warn({ ...ids, err: verdict.error }, 'attempt failed');
    else log.debug(ids, 'run settled');
  }

  /**
   * Releases a job whose lease ran out because Postgres was away for longer than the TTL, and
   * which nobody has taken since. Its worker is well, so this is an interruption; found by the
   * next claim it would count as a crash, as a handler that blocks the event loop shall.
   *
   * @returns false: somebody else has it
   */
  async #giveBack(claimed: ClaimedJob, stream: StreamWriter, delivery: Delivery): Promise<boolean> {
    try {
      return await this.#commit(await this.#plan({ kind: 'interrupted' }, claimed, stream, delivery));
    } catch (err) {
      if (err instanceof LeaseLostError || isTransient(err)) return false;
      throw err;
    }
  }

  /** Says to BullMQ what the committed verdict means for it: what its processor returns or throws. */
  #answer(verdict: SettledVerdict, delivery: Delivery): unknown {
    const { job } = delivery;
    switch (verdict.kind) {
      case 'completed':
        return verdict.result === null ? undefined : JSON.parse(verdict.result);
      case 'failed':
        decideRetry(job, undefined);
        throw verdict.error;
      case 'cancelled':
        throw toUnrecoverable(verdict.failure);
      case 'retry':
        if (verdict.undecided !== true) decideRetry(job, verdict.delayMs);
        throw verdict.error;
      case 'deferred':
        throw verdict.error;
      case 'interrupted':
        return this.#handBack(delivery);
      default:
        return verdict satisfies never;
    }
  }

  /** The one transaction a run ends in: what is left of its stream, its last event, its outcome. */
  async #plan(
    verdict: SettledVerdict,
    claimed: ClaimedJob,
    stream: StreamWriter,
    { spec, attemptsMade }: Delivery,
  ): Promise<Settlement> {
    const sealed = await stream.seal();
    if (stream.immediate && stream.refused !== undefined) await this.#disown(claimed, stream);
    const plan = settlementOf(verdict);
    const own = eventOf(verdict, claimed);
    // A stream without a head stays silent: its terminal event is read from the row.
    const silent =
      claimed.fence === 1 && sealed.firstSeq === 0 && sealed.events.length === 0 && plan.status !== 'pending';
    const events = own === undefined || silent ? sealed.events : [...sealed.events, own];
    return {
      ...plan,
      id: claimed.id,
      fence: claimed.fence,
      resultTtlMs: spec.policy.resultTtlMs ?? this.#runtime.settings.resultTtlMs,
      delivery: attemptsMade,
      ...(claimed.options.keyless === true && spec.transparent ? { rerunnable: true } : {}),
      run:
        events.length === 0
          ? undefined
          : { streamId: claimed.id, fence: claimed.fence, firstSeq: sealed.firstSeq, events },
    };
  }

  /**
   * Readers have events of a refused run's stream that the journal will never have, and the
   * outcome goes where the first of them would: at another fence, so that cursors differ.
   */
  async #disown(claimed: ClaimedJob, stream: StreamWriter): Promise<void> {
    if (claimed.fence !== stream.fence) return;
    const { id, fence } = claimed;
    const raised = await this.#persist(id, () => raiseFence(this.#runtime.db.kysely, claimed));
    if (raised === undefined) throw new LeaseLostError(id, fence, 'the outcome found the row at another fence');
    claimed.fence = raised;
  }

  /** Whether the transaction that `ctx.complete` took part in has committed. */
  async #hasCompleted(settlement: Settlement): Promise<boolean> {
    const settled = await this.#persist(settlement.id, () => findSettled(this.#runtime.db.kysely, [settlement]));
    if (!settled.has(settlement)) return false;
    this.#runtime.announce(settlement);
    return true;
  }

  /** Tries until Postgres answers: the fence, not the clock, decides whether it is too late. */
  #commit(settlement: Settlement): Promise<boolean> {
    return this.#persist(settlement.id, () => this.#runtime.settle(settlement));
  }

  async #persist<T>(jobId: string, write: () => Promise<T>): Promise<T> {
    for (let waitMs = 50; ; waitMs = Math.min(waitMs * 2, 2_000)) {
      try {
        return await write();
      } catch (err) {
        if (!isTransient(err) || this.#giveUp.signal.aborted) throw err;
        this.#runtime.log.warn({ err, jobId }, 'outcome not committed; trying again');
        await delay(waitMs * (0.5 + Math.random()), undefined, { signal: this.#giveUp.signal }).catch(() => undefined);
      }
    }
  }

  /** Ends a job that nobody may run any more, and answers its delivery. */
  async #end(jobId: string, delivery: Delivery): Promise<unknown> {
    const { spec, attemptsMade } = delivery;
    crashPoint('end.before');
    const finished = await finishJob(this.#runtime, jobId, {
      definition: spec,
      committed: 'end.after',
      delivery: attemptsMade,
    });
    if (finished === undefined) return this.#defer(delivery, 200 + Math.random() * 300);
    await finished.alerted;
    throw toUnrecoverable(finished.error);
  }

  /** Another owner is alive: comes back when its lease would expire, or as soon as it finishes. */
  async #deferToOwner(
    delivery: Delivery,
    jobId: string,
    { leaseLeftMs, heldMs }: Extract<ClaimAnswer, { decision: 'held' }>,
  ): Promise<never> {
    const { job } = delivery;
    if (heldMs > DEFERRAL_LIMIT_MS) {
      throw toUnrecoverable({
        code: 'LEASE_HELD',
        message: `Job ${jobId} was still running elsewhere after ${DEFERRAL_LIMIT_MS} ms`,
      });
    }
    const waitMs = Math.max(leaseLeftMs, 0) + 50 + Math.random() * 250;
    crashPoint('defer.before');
    const { hub, log } = this.#runtime;
    const promote = () => {
      stop();
      job.promote().catch((err: unknown) => log.debug({ err, jobId }, 'deferred delivery not woken early'));
    };
    const stop = (): void => {
      clearTimeout(timer);
      unsubscribe();
    };
    const timer = setTimeout(() => stop(), waitMs);
    timer.unref();
    const unsubscribe = hub.subscribe(jobId, { onRun: (run) => run.end && promote(), onGap: () => undefined });
    log.debug({ jobId, waitMs: Math.round(waitMs) }, 'delivery deferred: the lease is held');
    return this.#defer(delivery, waitMs);
  }

  #ended(run: RunInProgress): void {
    this.#runs.remove(run);
    if (this.#runs.size === 0) for (const resolve of this.#waitingForIdle.splice(0)) resolve();
  }

  /** Gives a delivery back to its queue: the next free worker has it. */
  async #handBack({ job, token }: Delivery): Promise<never> {
    if (this.#abandoned) throw new WaitingError();
    await job
      .moveToWait(token ?? '')
      .catch((err: unknown) => this.#runtime.log.debug({ err }, 'job not moved back to wait'));
    throw new WaitingError();
  }

  async #defer({ job, token }: Delivery, waitMs: number): Promise<never> {
    // Redis away or the lock gone: BullMQ's stalled check brings the delivery back.
    await job
      .moveToDelayed(Date.now() + Math.round(waitMs), token)
      .catch((err: unknown) => this.#runtime.log.debug({ err }, 'job not moved to delayed'));
    throw new DelayedError();
  }
}

/** What `ctx.complete` has tried to commit, if it was called. */
interface Completion {
  settlement: Settlement | undefined;
}

/** The input of a delivery whose row cannot be read: carried by BullMQ, or the data of another client's job. */
function unguardedInput(job: Job): { value: unknown } | undefined {
  const data = job.data as { input?: unknown } | null | undefined;
  if (readJobData(job) !== undefined) return data != null && 'input' in data ? { value: data.input } : undefined;
  return { value: withoutKey(data) };
}

/** Of the row that a job names only where it is not a copy that somebody made of the job. */
function rowIdOf(job: Job, rowId: string | undefined): string | undefined {
  return job.id === `oncefleet-${rowId}` ? rowId : undefined;
}

/** The backoff another BullMQ client asked for, where it is one of BullMQ's own. */
function foreignBackoff(job: Job): Backoff | undefined {
  const { backoff } = job.opts;
  if (typeof backoff === 'number') return { type: 'fixed', delayMs: Math.max(backoff, 0), jitter: 0 };
  if (backoff?.type !== 'fixed' && backoff?.type !== 'exponential') return undefined;
  const type = backoff.type as Backoff['type'];
  return { type, delayMs: Math.max(backoff.delay ?? 0, 0), jitter: backoff.jitter ?? 0 };
}
