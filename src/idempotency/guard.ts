/**
 * What happens to a delivery: BullMQ hands over a job, the claim table says what becomes of
 * it, and a run that owns the lease ends in one fenced transaction before BullMQ is told.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DelayedError, type Job, UnrecoverableError, WaitingError } from 'bullmq';
import { crashPoint } from '../crash-points.ts';
import {
  type ClaimAnswer,
  type ClaimedJob,
  endAbandoned,
  findSettled,
  type RowOptions,
  raiseFence,
  redriveJob,
  type Settlement,
  settleJobs,
} from '../db/jobs.ts';
import { asOwn } from '../db/own-schema.ts';
import { isTransient } from '../db/transient.ts';
import {
  asError,
  CancelledError,
  InterruptedError,
  LeaseLostError,
  NonRetryableError,
  OncefleetError,
  RetryAfterError,
  type StoredFailure,
  toStoredFailure,
} from '../errors.ts';
import {
  type AttemptEvent,
  type AttemptReason,
  encodeJson,
  type JobEvent,
  type SystemEvent,
} from '../journal/event.ts';
import { rowTerminalJson } from '../journal/terminal.ts';
import type { StreamWriter } from '../journal/writer.ts';
import { MAX_TIMER_MS } from '../options.ts';
import { ending } from './abandon.ts';
import { Bag, type Placed } from './bag.ts';
import { createContext, createUnguardedContext } from './context.ts';
import type { Backoff, JobContext, JobPolicy } from './define-job.ts';
import { checkKey, fingerprint, inputJson } from './fingerprint.ts';
import { type HandlerSlots, Slot } from './handler-slots.ts';
import { readJobData } from './job-data.ts';
import type { Runtime } from './runtime.ts';
import { Stop } from './stop.ts';

/** A job as the guard needs it, made from a definition or around a plain processor. */
export interface JobSpec {
  name: string;
  queue: string;
  policy: JobPolicy;
  /** The idempotency key of a job that some other BullMQ client added. */
  keyOf(job: Job): string | undefined;
  checkEvent: ((event: JobEvent) => void) | undefined;
  /** @throws InputInvalidError */
  handle(input: unknown, ctx: JobContext, job: Job): Promise<unknown>;
  onPoison?(job: { jobId: string; tenant: string; name: string; crashes: number }): void | Promise<void>;
}

/** A handler that ignores its signal for so long is left behind; its writes are refused, ms. */
const ABANDON_AFTER_MS = 5_000;

/** A delivery is deferred no longer than this after its job was added to BullMQ, ms. */
const DEFERRAL_LIMIT_MS = 24 * 3600 * 1000;

/** Claims without an answer that are remembered; what is forgotten costs a lease's TTL. */
const MAX_UNANSWERED = 10_000;

/** How often a claim is tried again at once while somebody holds the row's lock. */
const BUSY_TRIES = 6;

/** How long the outcome of an unguarded run is offered to Postgres, ms. */
const UNGUARDED_SAVE_MS = 30_000;

const OUTAGE_MIN_MS = 500;
/** Longer pauses would outlast most outages: what met one is to run soon after it. */
const OUTAGE_MAX_MS = 5_000;

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
  /** Aborts what waits for a Postgres that is away, when the process must end. */
  readonly #giveUp = new AbortController();
  #deliveries = 0;
  /**
   * Owners of claims that failed without an answer, by BullMQ job: such a claim may have been
   * committed, and the job's next delivery is recognised by its owner. Never of a claim that
   * is still under way, or two deliveries could enter one run.
   */
  readonly #unanswered = new Map<string, string>();
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
    if (slots === undefined) return this.#deliver(job, token, signal, spec, undefined);
    const slot = new Slot(slots);
    try {
      return await this.#deliver(job, token, signal, spec, slot);
    } finally {
      slot.letGo();
    }
  }

  async #deliver(
    job: Job,
    token: string | undefined,
    signal: AbortSignal | undefined,
    spec: JobSpec,
    slot: Slot | undefined,
  ): Promise<unknown> {
    const deliveryId = `${job.queueName}/${job.id}`;
    const unanswered = this.#unanswered.get(deliveryId);
    const owner = unanswered ?? `${this.#runtime.workerId}/${this.#deliveries++}`;
    this.#unanswered.delete(deliveryId);
    let jobId: string;
    let claimSentAt: bigint;
    let answer: ClaimAnswer;
    try {
      jobId = readJobData(job)?.jobId ?? (await this.#acceptForeign(job, spec));
      // After the row is there: a foreign job that is handed back counts as started before.
      if (!(await this.#mayStart(slot))) {
        if (unanswered !== undefined) this.#unanswered.set(deliveryId, unanswered);
        return this.#handBack(job, token);
      }
      crashPoint('claim.before');
      ({ answer, sentAt: claimSentAt } = await this.#claim(jobId, owner, job, spec));
    } catch (err) {
      if (!isTransient(err)) throw err;
      if (this.#unanswered.size >= MAX_UNANSWERED) this.#unanswered.clear();
      this.#unanswered.set(deliveryId, owner);
      const input = unguardedInput(job);
      if (spec.policy.onStoreOutage === 'run' && input !== undefined) {
        if (!(await this.#mayStart(slot))) return this.#handBack(job, token);
        return this.#runUnguarded(input.value, job, token, signal, spec, slot);
      }
      this.#runtime.log.warn({ err, bullJobId: job.id }, 'Postgres is away: delivery deferred');
      const waitMs = Math.min(OUTAGE_MIN_MS * 2 ** Math.min(job.attemptsStarted, 6), OUTAGE_MAX_MS);
      return this.#defer(job, token, waitMs * (0.75 + Math.random() / 2));
    }
    switch (answer.decision) {
      case 'claimed':
        return this.#run(answer.job, claimSentAt, job, token, signal, spec, slot);
      case 'completed':
        this.#runtime.log.debug({ jobId }, 'delivery of a completed job: result replayed');
        return answer.result === null ? undefined : JSON.parse(answer.result);
      case 'failed':
        throw toUnrecoverable(answer.error);
      case 'cancelled':
        throw toUnrecoverable(toStoredFailure(new CancelledError(jobId)));
      case 'retried':
        await redriveJob(this.#runtime.db.kysely, jobId, failureJson);
        crashPoint('retry.redriven');
        this.#runtime.log.info({ jobId }, 'redriven by a retry in BullMQ');
        return this.#deliver(job, token, signal, spec, slot);
      case 'held':
        return this.#deferToOwner(job, token, jobId, answer.leaseLeftMs);
      case 'busy':
        return this.#defer(job, token, 200 + Math.random() * 300);
      case 'end':
        return this.#end(jobId, job, token, spec);
      case 'missing':
        throw toUnrecoverable(toStoredFailure(new OncefleetError('JOB_NOT_FOUND', `No job ${jobId} in Postgres`)));
      default:
        return answer satisfies never;
    }
  }

  /** Waits for a slot. @returns false: this process ends, or none came free in time */
  #mayStart(slot: Slot | undefined): boolean | Promise<boolean> {
    if (this.#over) return false;
    return slot === undefined || slot.tryTake() || slot.take();
  }

  /** The row of a job that another BullMQ client added: here it gets one. */
  async #acceptForeign(job: Job, spec: JobSpec): Promise<string> {
    const data = job.data as { tenant?: unknown; idempotencyKey?: unknown } | null | undefined;
    try {
      const { idempotencyKey, ...input } = (
        typeof data === 'object' && data !== null && !Array.isArray(data) ? data : { value: data }
      ) as Record<string, unknown>;
      const given = spec.keyOf(job) ?? toKey(idempotencyKey);
      // Numeric BullMQ ids start again at 1 after a flush, so the id alone is no key.
      const key = given ?? `bullmq:${job.queueName}:${job.id}:${job.timestamp}`;
      checkKey(key);
      const { policy } = spec;
      const accepted = await this.#runtime.acceptor.accept(
        {
          tenant: typeof data?.tenant === 'string' ? data.tenant : this.#runtime.settings.tenant,
          name: spec.name,
          queue: spec.queue,
          key,
          fingerprint: fingerprint(input),
          input: inputJson(input),
          options: {
            priority: job.opts.priority ?? 0,
            attempts: job.opts.attempts ?? policy.attempts,
            backoff: foreignBackoff(job) ?? policy.backoff,
            ...(policy.publish === 'immediate' ? { publish: policy.publish } : {}),
          },
          delayMs: 0,
          deadlineMs: policy.deadlineMs ?? null,
        },
        // A job that BullMQ starts again is no new enqueue: its failure stands.
        job.attemptsStarted > 1 ? 'replay' : policy.onFailedKey,
      );
      return accepted.id;
    } catch (error) {
      if (error instanceof OncefleetError) throw toUnrecoverable(toStoredFailure(error));
      throw error;
    }
  }

  async #claim(
    jobId: string,
    owner: string,
    job: Job,
    spec: JobSpec,
  ): Promise<{ answer: ClaimAnswer; sentAt: bigint }> {
    const { settings } = this.#runtime;
    const request = {
      id: jobId,
      owner,
      ttlMs: spec.policy.lease?.ttlMs ?? settings.leaseTtlMs,
      maxCrashes: spec.policy.maxCrashes ?? settings.maxCrashes,
      delivery: job.attemptsMade,
      own: job.id === jobId,
    };
    for (let round = 0; ; round++) {
      const sentAt = process.hrtime.bigint();
      const answer = await this.#runtime.claim(request);
      if (answer.decision !== 'busy' || round === BUSY_TRIES) return { answer, sentAt };
      await delay(2 ** round * (2 + Math.random()));
    }
  }

  async #run(
    claimed: ClaimedJob,
    claimSentAt: bigint,
    job: Job,
    token: string | undefined,
    bullSignal: AbortSignal | undefined,
    spec: JobSpec,
    slot: Slot | undefined,
  ): Promise<unknown> {
    crashPoint('claim.after');
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
    const onBullAbort = () => abort(new InterruptedError(id));
    bullSignal?.addEventListener('abort', onBullAbort, { once: true });
    if (bullSignal?.aborted === true) onBullAbort();
    const timers = this.#startTimers(claimed, spec, abort);
    const run = { stop, jobId: id, stream, place: 0 };
    this.#runs.add(run);
    if (this.#over) abort(new InterruptedError(id));
    let verdict: Verdict;
    try {
      const attempt = claimed.crashCount + claimed.errorCount + claimed.interruptionCount + 1;
      const start = attemptEvent(claimed, attempt, spec.policy.onRetry);
      if (fence > 1) stream.append(JSON.stringify(start));
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
          const settlement = await this.#plan(verdict, claimed, stream, job, spec);
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
      verdict = await this.#judge(async () => spec.handle(JSON.parse(claimed.input), ctx, job), stop, claimed);
      slot?.letGo(performance.now() - startedAt);
      timers?.stop();
      lease.settling();
      if (completion.settlement !== undefined && (await this.#hasCompleted(completion.settlement))) {
        verdict = { kind: 'completed', result: completion.settlement.result };
      } else {
        await this.#settle(verdict, claimed, stream, job, spec);
      }
    } catch (err) {
      if (err instanceof LeaseLostError) {
        this.#runtime.log.warn({ err, jobId: id, fence }, 'run given up: its lease is lost');
        if (!blockedLoop && (await this.#giveBack(claimed, stream, job, spec)))
          return this.#answer({ kind: 'interrupted' }, job, token);
        return this.#defer(job, token, 500 + Math.random() * 500);
      }
      if (isTransient(err) || this.#giveUp.signal.aborted) throw err;
      // Left alone, the lease would run out, and count as a crash of a worker that is well.
      this.#runtime.log.error({ err, jobId: id, fence }, 'outcome could not be written; settled as an error');
      verdict = verdictOfError(
        new OncefleetError('INTERNAL', 'The outcome of the run could not be written', { cause: err }),
        claimed,
      );
      await this.#settle(verdict, claimed, stream, job, spec);
    } finally {
      timers?.stop();
      lease.release();
      bullSignal?.removeEventListener('abort', onBullAbort);
      this.#ended(run);
    }
    if (verdict.kind === 'lost') throw verdict.error;
    crashPoint('answer.before');
    return this.#answer(verdict, job, token);
  }

  /**
   * Runs a delivery although Postgres is away, as `onStoreOutage: 'run'` asks: no lease, so
   * another worker may run it too; no journal, so no reader sees its events; no checkpoints.
   * Its outcome is stored if Postgres comes back soon enough.
   */
  async #runUnguarded(
    input: unknown,
    job: Job,
    token: string | undefined,
    bullSignal: AbortSignal | undefined,
    spec: JobSpec,
    slot: Slot | undefined,
  ): Promise<unknown> {
    const { log } = this.#runtime;
    const stop = new Stop();
    const jobId = readJobData(job)?.jobId ?? `${job.queueName}/${job.id}`;
    const run = { stop, jobId, stream: undefined, place: 0 };
    this.#runs.add(run);
    try {
      const value = await this.#handleUnguarded(input, job, bullSignal, stop, spec);
      slot?.letGo();
      return await this.#saveUnguarded(encodeResult(value), job, spec);
    } catch (err) {
      if (stop.reason === undefined) throw err;
      log.debug({ err, bullJobId: job.id }, 'unguarded run interrupted');
      return this.#handBack(job, token);
    } finally {
      this.#ended(run);
    }
  }

  #handleUnguarded(
    input: unknown,
    job: Job,
    bullSignal: AbortSignal | undefined,
    stop: Stop,
    spec: JobSpec,
  ): Promise<unknown> {
    const { log } = this.#runtime;
    log.error(
      { bullJobId: job.id, jobName: job.name },
      'Postgres is away: running without lease and journal, as onStoreOutage says',
    );
    const { timeoutMs } = spec.policy;
    const signals = [bullSignal, timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs), stop.signal];
    const signal = AbortSignal.any(signals.filter((candidate) => candidate !== undefined));
    return spec.handle(input, createUnguardedContext(this.#runtime, job, signal), job);
  }

  /** Offers the outcome of an unguarded run to Postgres for a while. */
  async #saveUnguarded(result: string | null, job: Job, spec: JobSpec): Promise<unknown> {
    const { log } = this.#runtime;
    const saveUntil = performance.now() + UNGUARDED_SAVE_MS;
    for (
      let waitMs = 100;
      performance.now() < saveUntil && !this.#giveUp.signal.aborted;
      waitMs = Math.min(waitMs * 2, 2_000)
    ) {
      try {
        const jobId = readJobData(job)?.jobId ?? (await this.#acceptForeign(job, spec));
        const { answer } = await this.#claim(
          jobId,
          `${this.#runtime.workerId}/unguarded-${this.#deliveries++}`,
          job,
          spec,
        );
        if (answer.decision !== 'claimed') break;
        const stream = this.#runtime.writer.open({
          streamId: jobId,
          fence: answer.job.fence,
          nextSeq: answer.job.nextSeq,
          onRefused: () => undefined,
        });
        await this.#runtime.settle(await this.#plan({ kind: 'completed', result }, answer.job, stream, job, spec));
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
  async #judge(handle: () => Promise<unknown>, stop: Stop, claimed: ClaimedJob): Promise<Verdict> {
    if (stop.reason !== undefined) return verdictOfAbort(stop.reason, claimed);
    let leaveTimer: NodeJS.Timeout | undefined;
    const end = await new Promise<{ value: unknown } | { error: Error } | { left: true }>((resolve) => {
      stop.listen(() => {
        leaveTimer = setTimeout(() => resolve({ left: true }), ABANDON_AFTER_MS);
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
    // Even if the handler returned: many return early when told to stop.
    if (stop.reason !== undefined) return verdictOfAbort(stop.reason, claimed);
    if ('error' in end) return verdictOfError(end.error, claimed);
    try {
      return { kind: 'completed', result: encodeResult('value' in end ? end.value : undefined) };
    } catch (error) {
      const refused = new OncefleetError('OUTPUT_INVALID', (error as Error).message, { cause: error });
      return { kind: 'failed', failure: toStoredFailure(refused), error: refused };
    }
  }

  /** Commits the verdict at the run's fence. @throws LeaseLostError nothing was written */
  async #settle(verdict: Verdict, claimed: ClaimedJob, stream: StreamWriter, job: Job, spec: JobSpec): Promise<void> {
    if (verdict.kind === 'lost') throw verdict.error;
    const settlement = await this.#plan(verdict, claimed, stream, job, spec);
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
  async #giveBack(claimed: ClaimedJob, stream: StreamWriter, job: Job, spec: JobSpec): Promise<boolean> {
    try {
      return await this.#commit(await this.#plan({ kind: 'interrupted' }, claimed, stream, job, spec));
    } catch (err) {
      if (err instanceof LeaseLostError || isTransient(err)) return false;
      throw err;
    }
  }

  /** Says to BullMQ what the committed verdict means for it: what its processor returns or throws. */
  #answer(verdict: Exclude<Verdict, { kind: 'lost' }>, job: Job, token: string | undefined): unknown {
    switch (verdict.kind) {
      case 'completed':
        return verdict.result === null ? undefined : JSON.parse(verdict.result);
      case 'failed':
        throw toUnrecoverable(verdict.failure, verdict.error);
      case 'cancelled':
        throw toUnrecoverable(verdict.failure);
      case 'retry':
        // BullMQ reads these from its own copy of the job: the row's plan, not BullMQ's count, decides.
        job.opts.attempts = Math.max(job.opts.attempts ?? 1, job.attemptsMade + 2);
        job.opts.backoff = { type: 'fixed', delay: verdict.delayMs };
        throw verdict.error;
      case 'interrupted':
        return this.#handBack(job, token);
      default:
        return verdict satisfies never;
    }
  }

  /** The one transaction a run ends in: what is left of its stream, its last event, its outcome. */
  async #plan(
    verdict: Exclude<Verdict, { kind: 'lost' }>,
    claimed: ClaimedJob,
    stream: StreamWriter,
    job: Job,
    spec: JobSpec,
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
      delivery: job.attemptsMade,
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
  async #end(jobId: string, job: Job, token: string | undefined, spec: JobSpec): Promise<unknown> {
    const { settings, db, publisher, poisonAlerts } = this.#runtime;
    const maxCrashes = spec.policy.maxCrashes ?? settings.maxCrashes;
    const resultTtlMs = spec.policy.resultTtlMs ?? settings.resultTtlMs;
    crashPoint('end.before');
    const ended = await endAbandoned(db.kysely, jobId, { resultTtlMs, delivery: job.attemptsMade }, (row) =>
      ending(jobId, row, maxCrashes),
    );
    if (ended === undefined) return this.#defer(job, token, 200 + Math.random() * 300);
    crashPoint('end.after');
    publisher.publish([{ run: ended.run, end: true }]);
    if (ended.alert !== undefined) await poisonAlerts.raise(spec, ended.alert);
    throw toUnrecoverable(ended.error ?? toStoredFailure(new CancelledError(jobId)));
  }

  /** Another owner is alive: comes back when its lease would expire, or as soon as it finishes. */
  async #deferToOwner(job: Job, token: string | undefined, jobId: string, leaseLeftMs: number): Promise<never> {
    if (Date.now() - job.timestamp > DEFERRAL_LIMIT_MS) {
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
    return this.#defer(job, token, waitMs);
  }

  #ended(run: RunInProgress): void {
    this.#runs.remove(run);
    if (this.#runs.size === 0) for (const resolve of this.#waitingForIdle.splice(0)) resolve();
  }

  /** Gives a delivery back to its queue: the next free worker has it. */
  async #handBack(job: Job, token: string | undefined): Promise<never> {
    await job
      .moveToWait(token ?? '')
      .catch((err: unknown) => this.#runtime.log.debug({ err }, 'job not moved back to wait'));
    throw new WaitingError();
  }

  async #defer(job: Job, token: string | undefined, waitMs: number): Promise<never> {
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

type Verdict =
  | { kind: 'completed'; result: string | null }
  | { kind: 'failed'; failure: StoredFailure; error: Error }
  | { kind: 'retry'; failure: StoredFailure; error: Error; delayMs: number }
  | { kind: 'cancelled'; failure: StoredFailure }
  | { kind: 'interrupted' }
  | { kind: 'lost'; error: OncefleetError };

function verdictOfAbort(reason: Error, claimed: ClaimedJob): Verdict {
  if (reason instanceof CancelledError) return { kind: 'cancelled', failure: toStoredFailure(reason) };
  if (reason instanceof InterruptedError) return { kind: 'interrupted' };
  if (reason instanceof LeaseLostError) return { kind: 'lost', error: reason };
  if (reason instanceof OncefleetError && (reason.code === 'DEADLINE_EXCEEDED' || reason.code === 'JOURNAL_REFUSED')) {
    return { kind: 'failed', failure: toStoredFailure(reason), error: reason };
  }
  return verdictOfError(reason, claimed);
}

/** JSON text of a result; `undefined` has none, `null` has. @throws OncefleetError EVENT_INVALID */
function encodeResult(value: unknown): string | null {
  return value === undefined ? null : encodeJson(value, 'result');
}

function verdictOfError(error: Error, claimed: ClaimedJob): Exclude<Verdict, { kind: 'lost' }> {
  const failure = toStoredFailure(error);
  const final =
    error instanceof UnrecoverableError ||
    error instanceof NonRetryableError ||
    isInvalid(error) ||
    claimed.errorCount + 1 >= claimed.options.attempts;
  if (final) return { kind: 'failed', failure, error };
  const delayMs =
    error instanceof RetryAfterError ? error.retryAfterMs : backoffMs(claimed.options.backoff, claimed.errorCount + 1);
  return { kind: 'retry', failure, error, delayMs };
}

/** Input and output that fail their schemas will fail them again. */
function isInvalid(error: unknown): boolean {
  return error instanceof OncefleetError && (error.code === 'INPUT_INVALID' || error.code === 'OUTPUT_INVALID');
}

function settlementOf(
  verdict: Exclude<Verdict, { kind: 'lost' }>,
): Pick<Settlement, 'status' | 'outcome' | 'result' | 'error' | 'delayMs'> {
  const none = { result: null, error: null, delayMs: 0 };
  switch (verdict.kind) {
    case 'completed':
      return { ...none, status: 'completed', outcome: 'completed', result: verdict.result };
    case 'failed':
      return { ...none, status: 'failed', outcome: 'error', error: JSON.stringify(verdict.failure) };
    case 'retry':
      return {
        ...none,
        status: 'pending',
        outcome: 'error',
        error: JSON.stringify(verdict.failure),
        delayMs: verdict.delayMs,
      };
    case 'cancelled':
      return { ...none, status: 'cancelled', outcome: 'cancelled', error: JSON.stringify(verdict.failure) };
    case 'interrupted':
      return { ...none, status: 'pending', outcome: 'interruption' };
    default:
      return verdict satisfies never;
  }
}

/** What the stream says of a verdict; an interruption is told by the `attempt` that follows it. */
function eventOf(verdict: Exclude<Verdict, { kind: 'lost' }>, claimed: ClaimedJob): string | undefined {
  const plan = settlementOf(verdict);
  if (plan.status !== 'pending')
    return rowTerminalJson({ status: plan.status, result: plan.result, error: plan.error });
  if (verdict.kind !== 'retry') return undefined;
  const attempt = claimed.crashCount + claimed.errorCount + claimed.interruptionCount + 1;
  return JSON.stringify({
    type: 'retry',
    attempt,
    delayMs: verdict.delayMs,
    error: verdict.failure,
  } satisfies SystemEvent);
}

function attemptEvent(claimed: ClaimedJob, attempt: number, onRetry: JobPolicy['onRetry']): AttemptEvent {
  const reasons: Record<string, AttemptReason> = { error: 'error', interruption: 'interruption', redrive: 'redrive' };
  const reason = reasons[claimed.lastOutcome ?? ''] ?? 'crash';
  // Nothing is superseded: this event's own seq is past everything before it.
  if (onRetry === 'continue') return { type: 'attempt', attempt, reason, resumed: true, from: claimed.nextSeq };
  return {
    type: 'attempt',
    attempt,
    reason,
    resumed: claimed.checkpoint !== null,
    ...(claimed.checkpointSeq === null ? {} : { from: claimed.checkpointSeq }),
  };
}

function backoffMs(backoff: RowOptions['backoff'], failures: number): number {
  const base = backoff.type === 'fixed' ? backoff.delayMs : backoff.delayMs * 2 ** Math.min(failures - 1, 30);
  const capped = Math.min(base, backoff.maxDelayMs ?? 300_000);
  return Math.round(capped * (1 - Math.random() * (backoff.jitter ?? 0.2)));
}

/** The input of a delivery whose row cannot be read: carried by BullMQ, or the data of another client's job. */
function unguardedInput(job: Job): { value: unknown } | undefined {
  const data = job.data as { input?: unknown } | null | undefined;
  if (readJobData(job) !== undefined) return data != null && 'input' in data ? { value: data.input } : undefined;
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return { value: { value: data } };
  const { idempotencyKey: _key, ...input } = data as Record<string, unknown>;
  return { value: input };
}

/** The key in a foreign job's data; an order's number is as good a key as its text. @throws OncefleetError KEY_INVALID */
function toKey(value: unknown): string | undefined {
  if (value === undefined || typeof value === 'string') return value;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  throw new OncefleetError(
    'KEY_INVALID',
    `idempotencyKey: expected a string or a whole number, got ${value === null ? 'null' : typeof value}`,
  );
}

/** The backoff another BullMQ client asked for, where it is one of BullMQ's own. */
function foreignBackoff(job: Job): Backoff | undefined {
  const { backoff } = job.opts;
  if (typeof backoff === 'number') return { type: 'fixed', delayMs: backoff, jitter: 0 };
  if (backoff?.type !== 'fixed' && backoff?.type !== 'exponential') return undefined;
  const type = backoff.type as Backoff['type'];
  return { type, delayMs: backoff.delay ?? 0, jitter: backoff.jitter ?? 0 };
}

/** @param error what the handler threw: its stack is the one Bull Board should show */
function toUnrecoverable(failure: StoredFailure, error?: Error): UnrecoverableError {
  const unrecoverable = new UnrecoverableError(`${failure.code}: ${failure.message}`);
  if (typeof error?.stack === 'string') unrecoverable.stack = error.stack;
  return unrecoverable;
}

function failureJson(error: string | null): string {
  return rowTerminalJson({ status: 'failed', result: null, error });
}
