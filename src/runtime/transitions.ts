/**
 * The door: every change of a job's status is made here, and observers are told of it here, after the
 * commit. Nothing else imports what writes a status (a test holds that). A new way to change a job is
 * a method of this class, and a line of the table in docs/internals/job-lifecycle.md.
 *
 * Observers are told once of what this process has done. A process that dies between the commit and
 * the telling has told nobody; where a committed answer is lost on the way, the retry that finds it
 * committed tells.
 */
import type { Kysely } from 'kysely';
import { type CrashPoint, crashPoint } from '../crash-points.ts';
import { type ClaimAnswer, type ClaimedJob, type ClaimRequest, claimJobs } from '../db/jobs/claim.ts';
import { type FinishedJob, finishAbandoned } from '../db/jobs/finish.ts';
import type { NewJob } from '../db/jobs/insert.ts';
import { redriveJob } from '../db/jobs/redrive.ts';
import { findEnds, type Settlement, type SettlementEnd, settleJobs, writeDropped } from '../db/jobs/settle.ts';
import { attemptOf, type TransitionMaker, type TransitionType } from '../db/jobs/states.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { cancelWaiting } from '../db/operator.ts';
import { findExisting, type RunInTransaction } from '../db/outbox.ts';
import type { RemovedJob } from '../db/retention.ts';
import type { Database } from '../db/schema.ts';
import type { EventBatch } from '../db/streams/segments.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { isTransient } from '../db/transient.ts';
import { type Accepted, type AcceptInTransaction, type Acceptor, acceptorIn } from '../enqueue/accept.ts';
import { CancelledError, type StoredFailure, toStoredFailure } from '../errors.ts';
import type { JobPolicy } from '../jobs/define-job.ts';
import type { Publisher } from '../journal/publisher.ts';
import { Batcher } from '../util/batcher.ts';
import type { Probes } from '../util/probes.ts';
import type { Limits } from './limits.ts';
import type { Observers, Told } from './observers.ts';
import type { Alerted, PoisonAlerts } from './poison-alerts.ts';

/** Of a definition, what the end of its job needs. */
export interface FinishPolicy extends Pick<Alerted, 'onPoison'> {
  readonly policy: Pick<JobPolicy, 'maxCrashes' | 'resultTtlMs'>;
}

interface FinishJobOptions {
  by: TransitionMaker;
  /** `undefined` where this process does not know the job's definition: the fleet's settings count. */
  definition: FinishPolicy | undefined;
  /** The crash point between the commit and the announcements. */
  committed?: CrashPoint;
  /** BullMQ's attemptsMade of the delivery that met the job, if one did. */
  delivery?: number;
  /** `requested`: only a cancel or the deadline ends it. `now`: cancels it whether that was requested or not. */
  cancel?: 'requested' | 'now';
}

type OnFailedKey = JobPolicy['onFailedKey'];

interface TransitionsOptions {
  db: Kysely<Database>;
  acceptor: Acceptor;
  publisher: Publisher;
  poisonAlerts: PoisonAlerts;
  observers: Observers;
  probes?: Probes;
  /** Told of what ends under a limit, and of what waits for one. */
  limits: Pick<Limits, 'wake' | 'lookAgain'>;
  settings: { resultTtlMs: number; maxCrashes: number };
  /** Names this process in leases and the ledger. */
  workerId: string;
}

/** What a settlement that the row took is to observers. */
const SETTLED: Readonly<Record<Exclude<Settlement['status'], 'pending'>, TransitionType>> = {
  completed: 'completed',
  failed: 'failed',
  cancelled: 'cancelled',
};

const GIVEN_BACK: Readonly<Partial<Record<Settlement['outcome'], TransitionType>>> = {
  error: 'retried',
  deferral: 'deferred',
  interruption: 'interrupted',
};

export class Transitions {
  readonly #options: TransitionsOptions;
  readonly #claims: Batcher<ClaimRequest, ClaimAnswer>;
  readonly #settlements: Batcher<Settlement, SettlementEnd>;

  constructor(options: TransitionsOptions) {
    this.#options = options;
    const { db, workerId } = options;
    this.#claims = new Batcher({
      run: (claims) => claimJobs(db, claims, workerId),
      isolate: (error) => !isTransient(error),
      maxBatch: 200,
      maxInFlight: 3,
    });
    this.#settlements = new Batcher({
      run: (settlements) => this.#settle(settlements),
      isolate: (error) => !isTransient(error),
      maxBatch: 200,
      maxInFlight: 3,
    });
  }

  /** Gives a key its row: a new one, or the one that has it. @throws as `Acceptor.accept` */
  async create(job: Omit<NewJob, 'id'>, onFailedKey: OnFailedKey, by: TransitionMaker): Promise<Accepted> {
    const { acceptor, observers } = this.#options;
    const accepted = await acceptor.accept(job, onFailedKey);
    if (accepted.outcome === 'created' && observers.listening)
      observers.tell(creationOf({ ...job, id: accepted.id }, by));
    return accepted;
  }

  /** The same as a part of the caller's transaction. Observers are told by `committed`. */
  createIn(run: RunInTransaction): AcceptInTransaction {
    return acceptorIn(run);
  }

  /** Their transaction has committed. What a rollback to a savepoint undid was never there, and nobody is told of it. */
  async committed(rows: readonly DispatchRow[]): Promise<void> {
    const { db, observers } = this.#options;
    if (!observers.listening) return;
    const ids = rows.map(({ id }) => id);
    const existing = await findExisting(db, ids);
    for (const row of rows) if (existing.has(row.id)) observers.tell(creationOf(row, 'client'));
  }

  /** BullMQ has the job. */
  dispatched({ id, name, queue, tenant }: DispatchRow, by: TransitionMaker): void {
    const { observers } = this.#options;
    if (observers.listening) observers.tell({ type: 'dispatched', jobId: id, name, queue, tenant, by });
  }

  async claim(request: ClaimRequest): Promise<ClaimAnswer> {
    const { observers } = this.#options;
    const answer = await this.#claims.call(request);
    if (answer.decision === 'limited') this.#options.limits.lookAgain(answer.again);
    if (!observers.listening) return answer;
    if (answer.decision === 'claimed') observers.tell({ ...factsOf(answer.job), type: 'claimed' });
    if (answer.decision === 'held') {
      const { tenant, name, fence, leaseLeftMs } = answer;
      const { id: jobId, queue = '' } = request;
      observers.tell({ type: 'deferred', jobId, name, queue, tenant, fence, delayMs: leaseLeftMs, by: 'worker' });
    }
    if (answer.decision === 'limited') {
      const { tenant, name, fence } = answer;
      const { id: jobId, queue = '' } = request;
      observers.tell({ type: 'limited', jobId, name, queue, tenant, fence, by: 'worker' });
    }
    return answer;
  }

  /**
   * Ends a run of this process at its fence.
   *
   * @returns false: the lease is lost, nothing was written
   * @throws OncefleetError WRITE_DROPPED nothing was written, although the lease is held
   */
  async settle(settlement: Settlement, claimed: ClaimedJob): Promise<boolean> {
    const end = await this.#settlements.call(settlement);
    if (end === 'dropped') throw writeDropped('the outcome', settlement);
    if (end === 'lost') {
      this.#options.probes?.listener?.writeRefused('settle');
      return false;
    }
    this.#tellSettled(settlement, claimed);
    return true;
  }

  /** Completes a run in the caller's transaction. `completed` announces it once that is known to be committed. */
  settleIn(trx: Kysely<Database>, settlement: Settlement): Promise<Set<Settlement>> {
    return settleJobs(trx, [settlement]);
  }

  /** A settlement of `settleIn` has committed. */
  completed(settlement: Settlement, claimed: ClaimedJob): void {
    this.#announce([settlement]);
    this.#tellSettled(settlement, claimed);
  }

  /**
   * Ends a job that nobody runs, if it must end, and tells whoever has to know: readers of its stream,
   * observers and, for a poisoned job, `onPoison`.
   *
   * @returns `alerted` settles when `onPoison` has been called; undefined when the job may run or has ended
   */
  async finish(
    id: string,
    { by, definition, committed, delivery, cancel }: FinishJobOptions,
  ): Promise<(FinishedJob & { alerted: Promise<void> }) | undefined> {
    const { db, settings, publisher, poisonAlerts, observers } = this.#options;
    const finished = await finishAbandoned(db, id, {
      resultTtlMs: definition?.policy.resultTtlMs ?? settings.resultTtlMs,
      maxCrashes: cancel === undefined ? (definition?.policy.maxCrashes ?? settings.maxCrashes) : undefined,
      ...(delivery === undefined ? {} : { delivery }),
      cancel: cancel === 'now',
    });
    if (finished === undefined) return undefined;
    if (committed !== undefined) crashPoint(committed);
    publisher.publish([{ batch: finished.batch, end: true }]);
    const { alert, name, queue, tenant, attempts: attempt, batch, reason, status, error } = finished;
    if (observers.listening) {
      const type = reason === 'poison' ? 'poisoned' : status;
      const { fence } = batch;
      observers.tell({ type, jobId: id, name, queue, tenant, attempt, fence, by, errorCode: error.code });
    }
    const alerted = alert === undefined ? Promise.resolve() : poisonAlerts.raise(definition, alert);
    return { ...finished, alerted };
  }

  /** Cancels jobs that wait. @returns the ids of those that are cancelled; the others are locked or no longer pending */
  async cancelWaiting(ids: readonly string[], by: TransitionMaker): Promise<string[]> {
    const { db, publisher, settings, observers } = this.#options;
    const terminalJson = rowTerminalJson({ status: 'cancelled', result: null, error: null });
    const cancelled = await cancelWaiting(
      db,
      ids.map((id) => ({ id, errorJson: JSON.stringify(toStoredFailure(new CancelledError(id))) })),
      { terminalJson, resultTtlMs: settings.resultTtlMs },
    );
    publisher.publish(
      cancelled.map(({ id, fence, seq }) => ({
        batch: { streamId: id, fence, firstSeq: seq, events: [terminalJson] },
        end: true,
      })),
    );
    if (observers.listening)
      for (const { id: jobId, attempts: attempt, name, queue, tenant, fence } of cancelled)
        observers.tell({ type: 'cancelled', jobId, name, queue, tenant, attempt, fence, by, errorCode: 'CANCELLED' });
    return cancelled.map(({ id }) => id);
  }

  /**
   * Makes a job that has ended pending again.
   *
   * @param from `ended`: also one that completed, which BullMQ's own retry of a job without a key means
   * @returns whether it had failed (or ended)
   */
  async redrive(id: string, by: TransitionMaker, from: 'failed' | 'ended' = 'failed'): Promise<boolean> {
    const { db, observers } = this.#options;
    const redriven = await redriveJob(db, id, from);
    if (redriven === undefined) return false;
    if (observers.listening) observers.tell({ ...redriven, type: 'redriven', jobId: id, attempt: 0, by });
    return true;
  }

  /** The sweeper has removed jobs for good. */
  expired(jobs: readonly RemovedJob[]): void {
    const { observers } = this.#options;
    if (!observers.listening) return;
    for (const { id: jobId, ...facts } of jobs) observers.tell({ ...facts, type: 'expired', jobId, by: 'sweeper' });
  }

  async #settle(settlements: readonly Settlement[]): Promise<SettlementEnd[]> {
    const { db } = this.#options;
    crashPoint('settle.before');
    const accepted = await settleJobs(db, settlements);
    crashPoint('settle.after');
    const refused = settlements.filter((settlement) => !accepted.has(settlement));
    const refusals = refused.length === 0 ? undefined : await findEnds(db, refused);
    const ends = settlements.map((settlement) => refusals?.get(settlement) ?? 'settled');
    this.#announce(settlements.filter((_, i) => ends[i] === 'settled'));
    return ends;
  }

  /** To readers of the streams. */
  #announce(settlements: readonly Settlement[]): void {
    const announcements: { batch: EventBatch; end: boolean }[] = [];
    const endedWithoutEvents: string[] = [];
    for (const { id, batch, status } of settlements) {
      const end = status !== 'pending';
      if (batch !== undefined) announcements.push({ batch, end });
      else if (end) endedWithoutEvents.push(id);
    }
    this.#options.publisher.publish(announcements);
    this.#options.publisher.publishEndings(endedWithoutEvents);
  }

  #tellSettled({ status, outcome, error, fence, delayMs }: Settlement, claimed: ClaimedJob): void {
    const { observers, limits } = this.#options;
    if (claimed.limitKeys !== undefined) limits.wake(claimed.limitKeys);
    if (!observers.listening) return;
    const type = status === 'pending' ? (GIVEN_BACK[outcome] as TransitionType) : SETTLED[status];
    observers.tell({
      ...factsOf(claimed),
      type,
      fence,
      runMs: performance.now() - claimed.claimedAt,
      ...(status === 'pending' && outcome !== 'interruption' ? { delayMs } : {}),
      ...(error === null ? {} : { errorCode: (JSON.parse(error) as StoredFailure).code }),
    });
  }
}

function creationOf({ id, name, queue, tenant, delayMs }: DispatchRow | NewJob, by: TransitionMaker): Told {
  return { type: 'created', jobId: id, name, queue, tenant, attempt: 0, fence: 0, delayMs: Math.max(delayMs, 0), by };
}

function factsOf(claimed: ClaimedJob): Omit<Told, 'type'> {
  const { id, name, queue, tenant, fence } = claimed;
  return { jobId: id, name, queue, tenant, fence, attempt: attemptOf(claimed), by: 'worker' };
}
