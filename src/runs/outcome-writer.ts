import { setTimeout as delay } from 'node:timers/promises';
import { countLostConnections } from '../db/jobs/attempts.ts';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import { raiseFence } from '../db/jobs/fence.ts';
import { findSettled, type Settlement } from '../db/jobs/settle.ts';
import { QUEUE_KEY } from '../db/jobs/states.ts';
import { isTransient } from '../db/transient.ts';
import { LeaseLostError, OncefleetError, RetryAfterError, toStoredFailure } from '../errors.ts';
import type { StreamWriter } from '../journal/stream-writer.ts';
import { clampDelayMs } from '../numbers.ts';
import type { Delivery, GuardHost } from './delivery.ts';
import { eventOf, isByLostConnection, type SettledVerdict, settlementOf } from './verdict.ts';

/** Attempts in a row that a lost connection may interrupt. The next one fails. */
const MAX_LOST_CONNECTIONS = 10;

/** Whether Postgres took a write and changed nothing, although the lease is held. */
export function isDropped(error: unknown): error is OncefleetError {
  return error instanceof OncefleetError && error.code === 'WRITE_DROPPED';
}

/** Writes outcomes of runs to their rows: planned from the verdict, committed at the fence, tried until Postgres answers. */
export class OutcomeWriter {
  readonly #host: GuardHost;

  constructor(host: GuardHost) {
    this.#host = host;
  }

  /** The one transaction that a run ends in: what is left of its stream, its last event, its outcome. */
  async plan(
    verdict: SettledVerdict,
    claimed: ClaimedJob,
    stream: StreamWriter,
    delivery: Delivery,
  ): Promise<Settlement> {
    const sealed = await stream.seal();
    if (stream.immediate && stream.refused !== undefined) await this.#disown(claimed, stream);
    const row = this.#row(verdict, claimed, delivery);
    const own = eventOf(verdict, claimed);
    // A stream without a head gets none: its terminal event is read from the row.
    const eventless =
      claimed.fence === 1 && sealed.firstSeq === 0 && sealed.events.length === 0 && row.status !== 'pending';
    const events = own === undefined || eventless ? sealed.events : [...sealed.events, own];
    return {
      ...row,
      batch:
        events.length === 0
          ? undefined
          : { streamId: claimed.id, fence: claimed.fence, firstSeq: sealed.firstSeq, events },
    };
  }

  /**
   * Settles the row alone, of a job whose stream takes nothing from its run. The reconciler ends the stream.
   *
   * @returns false: too late
   */
  commitRow(verdict: SettledVerdict, claimed: ClaimedJob, delivery: Delivery): Promise<boolean> {
    return this.commit(this.#row(verdict, claimed, delivery), claimed);
  }

  #row(verdict: SettledVerdict, { id, fence, options }: ClaimedJob, { spec, attemptsMade }: Delivery): Settlement {
    return {
      ...settlementOf(verdict),
      id,
      fence,
      resultTtlMs: spec.policy.resultTtlMs ?? this.#host.runtime.settings.resultTtlMs,
      delivery: attemptsMade,
      ...(options.keyless === true && spec.transparent ? { rerunnable: true } : {}),
      batch: undefined,
    };
  }

  /**
   * Tries until Postgres answers: the fence, not the clock, decides whether it is too late. Where the stream takes
   * no event of a run that has its lease, the row is settled alone, so that no job hangs; but nothing completes
   * without its events.
   *
   * @returns false: too late
   * @throws OncefleetError WRITE_DROPPED nothing was written, although the lease is held
   */
  async commit(settlement: Settlement, claimed: ClaimedJob): Promise<boolean> {
    const { log, transitions } = this.#host.runtime;
    const { id, fence, status, outcome, batch } = settlement;
    try {
      return await this.#persist(id, () => transitions.settle(settlement, claimed));
    } catch (err) {
      if (!isDropped(err) || status === 'completed' || batch === undefined) throw err;
      log.error({ err, jobId: id, fence, status, outcome }, 'stream takes no event; its row is settled alone');
      return this.#persist(id, () => transitions.settle({ ...settlement, batch: undefined }, claimed));
    }
  }

  /** Has jobs of the run's keys, or of its queue, wait as long as its error says. Before its outcome: none starts in between. */
  async pause(error: Error, { id, limitKeys, queue }: ClaimedJob): Promise<void> {
    if (!(error instanceof RetryAfterError) || error.scope === 'job') return;
    const keys = error.scope === 'queue' ? [QUEUE_KEY + queue] : (limitKeys ?? []);
    const ms = clampDelayMs(error.retryAfterMs);
    if (keys.length === 0 || ms <= 0) return;
    await this.#persist(id, () => this.#host.runtime.limits.pause(keys, ms));
    this.#host.runtime.log.warn({ jobId: id, scope: error.scope, ms }, 'a handler has paused jobs beside its own');
  }

  /** Whether the transaction that `ctx.complete` took part in has committed. */
  async hasCommitted(settlement: Settlement, claimed: ClaimedJob): Promise<boolean> {
    const { runtime } = this.#host;
    const settled = await this.#persist(settlement.id, () => findSettled(runtime.db.kysely, [settlement]));
    if (!settled.has(settlement)) return false;
    runtime.transitions.completed(settlement, claimed);
    return true;
  }

  /**
   * Readers have events of a refused run's stream that the journal will never have, and the
   * outcome goes where the first of them would: at another fence, so that cursors differ.
   */
  async #disown(claimed: ClaimedJob, stream: StreamWriter): Promise<void> {
    if (claimed.fence !== stream.fence) return;
    const { id, fence } = claimed;
    const raised = await this.#persist(id, () => raiseFence(this.#host.runtime.db.kysely, claimed));
    if (raised === undefined) throw new LeaseLostError(id, fence, 'the outcome found the row at another fence');
    claimed.fence = raised;
  }

  /**
   * The verdict of a run whose handler failed by a lost connection to Postgres: interrupted, at no attempt's cost, but not
   * without end.
   *
   * @returns undefined: it failed by itself, or this has happened too often in a row
   */
  async interruption(error: Error, { id }: ClaimedJob): Promise<SettledVerdict | undefined> {
    if (!isByLostConnection(error)) return undefined;
    const { db, log } = this.#host.runtime;
    const earlier = await this.#persist(id, () => countLostConnections(db.kysely, id));
    if (earlier >= MAX_LOST_CONNECTIONS) return undefined;
    log.warn({ err: error, jobId: id, earlier }, 'attempt interrupted: its connection to Postgres was lost');
    return { kind: 'interrupted', failure: { code: 'STORE_UNAVAILABLE', message: toStoredFailure(error).message } };
  }

  async #persist<T>(jobId: string, write: () => Promise<T>): Promise<T> {
    const { registry, runtime } = this.#host;
    const signal = registry.stoppedWaiting;
    for (let waitMs = 50; ; waitMs = Math.min(waitMs * 2, 2_000)) {
      try {
        return await write();
      } catch (err) {
        if (!isTransient(err) || signal.aborted) throw err;
        runtime.log.warn({ err, jobId }, 'outcome not committed; trying again');
        await delay(waitMs * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
      }
    }
  }
}
