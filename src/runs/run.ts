import type { Transaction } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import { findEnds, findSettled, type Settlement, writeDropped } from '../db/jobs/settle.ts';
import { attemptOf } from '../db/jobs/states.ts';
import { asOwn } from '../db/own-schema.ts';
import { isTransient } from '../db/transient.ts';
import {
  asError,
  CancelledError,
  InterruptedError,
  LeaseLostError,
  OncefleetError,
  toStoredFailure,
} from '../errors.ts';
import type { StreamWriter } from '../journal/stream-writer.ts';
import type { HeldLease } from '../leases/keeper.ts';
import type { AttemptTrace } from '../util/tracing.ts';
import { abortByBullMQ, abortByTime } from './aborts.ts';
import { createContext } from './context.ts';
import type { Delivery, GuardHost } from './delivery.ts';
import { isDropped, type OutcomeWriter } from './outcome-writer.ts';
import type { Rows } from './rows.ts';
import type { RunInProgress } from './run-registry.ts';
import { Stop } from './stop.ts';
import {
  attemptEvent,
  encodeResult,
  isContinued,
  type SettledVerdict,
  type Verdict,
  verdictByBullMQ,
  verdictOfAbort,
  verdictOfControlFlow,
  verdictOfError,
} from './verdict.ts';

/** A handler that ignores its signal for longer is left behind; its writes are refused. */
const LEAVE_AFTER_MS = 5_000;

/** The same after its worker was closed by force: nobody waits for it, but what it says at once counts. */
const ABANDONED_WAIT_MS = 500;

/** How a handler ended: it returned, threw, or ignored its signal for too long. */
type HandlerEnd = { value: unknown } | { error: Error } | { left: true };

export interface RunHost extends GuardHost {
  readonly outcomes: OutcomeWriter;
  readonly rows: Rows;
}

/** One execution of a handler under a lease: its stream, lease, timers and outcome. */
export class Run implements RunInProgress {
  place = 0;
  readonly stop = new Stop();
  readonly jobId: string;
  readonly stream: StreamWriter;
  readonly #host: RunHost;
  readonly #claimed: ClaimedJob;
  readonly #delivery: Delivery;
  readonly #lease: HeldLease;
  readonly #trace: AttemptTrace;
  /** The event loop was blocked for so long that the lease was lost. */
  #blockedLoop = false;
  /** What `ctx.complete` has tried to commit, if it was called. */
  #completion: Settlement | undefined;
  #stopTimers: (() => void) | undefined;

  /** @param claimSentAt monotonic ns: the lease counts from there */
  constructor(host: RunHost, claimed: ClaimedJob, claimSentAt: bigint, delivery: Delivery, trace: AttemptTrace) {
    this.#host = host;
    this.#trace = trace;
    this.#claimed = claimed;
    this.#delivery = delivery;
    const { id, fence } = claimed;
    this.jobId = id;
    const { leases, writer } = host.runtime;
    this.stream = writer.open({
      streamId: id,
      fence,
      nextSeq: claimed.nextSeq,
      immediate: claimed.options.publish === 'immediate',
      onRefused: (reason) => this.stop.abort(reason),
    });
    this.#lease = leases.hold({
      jobId: id,
      fence,
      ttlMs: delivery.leaseTtlMs,
      claimSentAt,
      // A run that has completed itself has no lease to renew, and must not be aborted for that.
      onLost: (error, blocked) => {
        this.#blockedLoop = blocked;
        if (this.#completion === undefined) this.stop.abort(error);
      },
      onCancel: () => this.stop.abort(new CancelledError(id)),
    });
  }

  /** Runs the handler, commits its outcome, and answers BullMQ. */
  async execute(): Promise<unknown> {
    crashPoint('claim.after');
    const { registry } = this.#host;
    const unlisten = abortByBullMQ(this.stop, this.jobId, this.#delivery);
    const { timeoutMs } = this.#delivery.spec.policy;
    this.#stopTimers = abortByTime(this.stop, { timeoutMs, deadlineLeftMs: this.#claimed.deadlineLeftMs });
    registry.add(this);
    if (registry.closing) this.stop.abort(new InterruptedError(this.jobId));
    let verdict: SettledVerdict;
    try {
      verdict = await this.#settle(await this.#judge());
    } catch (err) {
      verdict = await this.#recover(err);
    } finally {
      this.#stopTimers?.();
      this.#lease.release();
      unlisten?.();
      registry.remove(this);
    }
    this.#trace.ended(verdict.kind, 'failure' in verdict ? verdict.failure.code : undefined);
    crashPoint('answer.before');
    return this.#delivery.answer(verdict);
  }

  /** Runs the handler and says how the run ended. An abort that came first decides. */
  async #judge(): Promise<Verdict> {
    const { job, spec, slot } = this.#delivery;
    const { stop } = this;
    const handle = this.#handler();
    if (stop.reason !== undefined) return verdictOfAbort(stop.reason) ?? this.#verdictOf(stop.reason);
    const startedAt = performance.now();
    const end = await this.#handleOrLeave(handle);
    slot?.letGo(performance.now() - startedAt);
    this.#stopTimers?.();
    // Where BullMQ has the job already, an interruption has nothing to give back.
    const reason = stop.reason as Error | undefined;
    const moved = spec.transparent && 'error' in end ? verdictOfControlFlow(end.error, job) : undefined;
    if (moved !== undefined && (reason === undefined || reason instanceof InterruptedError)) return moved;
    // Even if the handler returned: many return early when they are aborted.
    if (reason !== undefined) return verdictOfAbort(reason) ?? this.#verdictOf(reason);
    if ('error' in end) return this.#verdictOf(end.error);
    try {
      return { kind: 'completed', result: encodeResult('value' in end ? end.value : undefined) };
    } catch (error) {
      if (spec.transparent) return this.#verdictOf(error as Error);
      const refused = new OncefleetError('OUTPUT_INVALID', (error as Error).message, { cause: error });
      return { kind: 'failed', failure: toStoredFailure(refused), error: refused };
    }
  }

  async #verdictOf(error: Error): Promise<SettledVerdict> {
    const { spec, job } = this.#delivery;
    const interruption = await this.#host.outcomes.interruption(error, this.#claimed);
    if (interruption !== undefined) return interruption;
    return spec.transparent ? verdictByBullMQ(error, job) : verdictOfError(error, this.#claimed);
  }

  /** The handler with its context. The stream tells of the attempt first, where it is not the job's first. */
  #handler(): () => Promise<unknown> {
    const { runtime } = this.#host;
    const { job, spec } = this.#delivery;
    const claimed = this.#claimed;
    const { stream, stop } = this;
    const attempt = attemptOf(claimed);
    const start = attemptEvent(claimed, attempt, spec.policy.onRetry);
    if (claimed.fence > 1 && !isContinued(claimed)) stream.append(JSON.stringify(start));
    const ctx = createContext({
      runtime,
      delivery: job,
      claimed,
      attempt,
      start,
      stream,
      stop,
      ttlMs: this.#delivery.leaseTtlMs,
      checkEvent: spec.checkEvent,
      complete: (trx, result) => this.#complete(trx, result),
      traceIds: this.#trace.ids,
    });
    return async () => spec.handle(JSON.parse(claimed.input), ctx, job);
  }

  #handleOrLeave(handle: () => Promise<unknown>): Promise<HandlerEnd> {
    return new Promise((resolve) => {
      let leaveTimer: NodeJS.Timeout | undefined;
      const end = (how: HandlerEnd) => {
        clearTimeout(leaveTimer);
        this.stop.unlisten();
        resolve(how);
      };
      this.stop.listen(() => {
        const waitMs = this.#host.registry.abandoned ? ABANDONED_WAIT_MS : LEAVE_AFTER_MS;
        leaveTimer = setTimeout(() => {
          const { id: jobId, fence } = this.#claimed;
          this.#host.runtime.log.error({ jobId, fence }, 'handler ignored its signal and was left behind');
          end({ left: true });
        }, waitMs);
      });
      handle().then(
        (value) => end({ value }),
        (thrown: unknown) => end({ error: asError(thrown) }),
      );
    });
  }

  /** `ctx.complete`: the outcome in the caller's transaction. */
  // biome-ignore lint/suspicious/noExplicitAny: whatever tables the handler knows of.
  async #complete(trx: Transaction<any>, result: unknown): Promise<void> {
    const { outcomes, runtime } = this.#host;
    const { id, fence } = this.#claimed;
    const { stream } = this;
    const verdict: SettledVerdict = { kind: 'completed', result: encodeResult(result) };
    await stream.seal();
    // Not all that the run emitted can be kept: it has failed.
    if (stream.refused !== undefined) throw stream.refused;
    const settlement = await outcomes.plan(verdict, this.#claimed, stream, this.#delivery);
    this.#lease.settling();
    const own = asOwn(trx, runtime.db.schema);
    const accepted = await runtime.transitions.settleIn(own, settlement);
    if (!accepted.has(settlement)) {
      const first = this.#completion;
      if (first !== undefined && (await findSettled(own, [first])).has(first))
        throw new OncefleetError('STREAM_CLOSED', `ctx.complete: job ${id} has its outcome already, by the first call`);
      if ((await findEnds(own, [settlement])).get(settlement) === 'dropped')
        throw writeDropped('the completion', settlement);
      throw new LeaseLostError(id, fence, 'the completion found the row at another fence');
    }
    this.#completion = settlement;
    crashPoint('complete.after');
  }

  /** Commits the verdict at the run's fence, unless `ctx.complete` has. @throws LeaseLostError nothing was written */
  async #settle(verdict: Verdict): Promise<SettledVerdict> {
    const { outcomes, rows, runtime } = this.#host;
    const claimed = this.#claimed;
    this.#lease.settling();
    const completion = this.#completion;
    if (completion !== undefined && (await outcomes.hasCommitted(completion, claimed)))
      return { kind: 'completed', result: completion.result };
    if (verdict.kind === 'lost') throw verdict.error;
    if (verdict.kind !== 'completed') await rows.keepData(claimed, this.#delivery);
    if (verdict.kind === 'failed' || verdict.kind === 'retry') await outcomes.pause(verdict.error, claimed);
    const settlement = await outcomes.plan(verdict, claimed, this.stream, this.#delivery);
    if (!(await outcomes.commit(settlement, claimed)))
      throw new LeaseLostError(claimed.id, claimed.fence, 'the outcome found the row at another fence');
    if (verdict.kind === 'failed' || verdict.kind === 'retry') {
      const { outcome, status } = settlement;
      const ids = { jobId: claimed.id, fence: claimed.fence, outcome, status, ...this.#trace.ids };
      runtime.log.warn({ ...ids, err: verdict.error }, 'attempt failed');
    }
    return verdict;
  }

  /** After an outcome that was not committed. @throws DelayedError the lease is lost, and somebody else has the job */
  async #recover(err: unknown): Promise<SettledVerdict> {
    const { runtime, registry } = this.#host;
    const { id: jobId, fence } = this.#claimed;
    if (err instanceof LeaseLostError) {
      runtime.log.warn({ err, jobId, fence, ...this.#trace.ids }, 'run given up: its lease is lost');
      const end = async () => (err.expired ? this.#release() : this.#endIfHeld(err));
      const verdict = this.#blockedLoop ? undefined : await end().catch(leaveToOthers);
      return verdict ?? this.#delivery.defer(500 + Math.random() * 500);
    }
    if (isTransient(err) || registry.stoppedWaiting.aborted) throw err;
    // Left alone, the lease would run out, and count as a crash of a healthy worker.
    runtime.log.error({ err, jobId, fence }, 'outcome could not be written; settled as an error');
    // Its effects are done: to do them again would meet the same.
    if (isDropped(err)) return this.#settle({ kind: 'failed', failure: toStoredFailure(err), error: err });
    const internal = new OncefleetError('INTERNAL', 'The outcome of the run could not be written', { cause: err });
    return this.#settle(verdictOfError(internal, this.#claimed));
  }

  /**
   * Releases a job whose lease ran out because Postgres was unreachable for longer than the TTL, and
   * which nobody has taken since. Its worker is healthy, so this is an interruption; found by the
   * next claim it would count as a crash, as a handler that blocks the event loop must.
   *
   * @returns undefined: somebody else has it
   */
  async #release(): Promise<SettledVerdict | undefined> {
    const { outcomes } = this.#host;
    const verdict: SettledVerdict = { kind: 'interrupted' };
    const settlement = await outcomes.plan(verdict, this.#claimed, this.stream, this.#delivery);
    return (await outcomes.commit(settlement, this.#claimed)) ? verdict : undefined;
  }

  /**
   * A statement of this run found another fence. Where the row has ours all the same, that write was dropped, and
   * would be again: as an interruption, the job would run without end.
   *
   * @returns undefined: somebody else has it
   */
  async #endIfHeld(lost: LeaseLostError): Promise<SettledVerdict | undefined> {
    const { outcomes, runtime } = this.#host;
    const error = writeDropped('a write', this.#claimed, lost);
    const verdict: SettledVerdict = { kind: 'failed', failure: toStoredFailure(error), error };
    if (!(await outcomes.commitRow(verdict, this.#claimed, this.#delivery))) return undefined;
    runtime.log.error({ err: error, jobId: lost.jobId, fence: lost.fence }, 'a write of the run was dropped');
    return verdict;
  }
}

/** Where the lease is lost, or Postgres unreachable until the end: what has the job next looks after it. */
function leaveToOthers(err: unknown): undefined {
  if (err instanceof LeaseLostError || isTransient(err)) return undefined;
  throw err;
}
