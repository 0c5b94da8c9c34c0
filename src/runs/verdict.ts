/** How a run has ended, and what that means for its row, its stream and BullMQ. Pure: nothing is read or written here. */
import { type Job, UnrecoverableError } from 'bullmq';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import type { RowOptions } from '../db/jobs/insert.ts';
import type { Settlement } from '../db/jobs/settle.ts';
import { attemptOf, type LastOutcome } from '../db/jobs/states.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { isConnectionLost } from '../db/transient.ts';
import {
  CancelledError,
  InterruptedError,
  LeaseLostError,
  NonRetryableError,
  OncefleetError,
  RetryAfterError,
  type StoredFailure,
  toStoredFailure,
} from '../errors.ts';
import type { JobPolicy } from '../jobs/define-job.ts';
import { type AttemptEvent, type AttemptReason, encodeJson, type SystemEvent } from '../journal/event.ts';
import { clampDelayMs, toNumber } from '../numbers.ts';
import { isControlFlow, isUnrecoverable, retryDelayOf } from './bullmq-errors.ts';

export type Verdict =
  | { kind: 'completed'; result: string | null }
  /** `error`: as BullMQ is to see it. */
  | { kind: 'failed'; failure: StoredFailure; error: Error }
  /** `undecided`: BullMQ could not say what it does, and is to be asked by itself. */
  | { kind: 'retry'; failure: StoredFailure; error: Error; delayMs: number; undecided?: boolean }
  /** The processor has told BullMQ that the job is elsewhere now. */
  | { kind: 'deferred'; error: Error; delayMs: number }
  | { kind: 'cancelled'; failure: StoredFailure }
  /** `failure`: what interrupted it, where that was no closing worker. */
  | { kind: 'interrupted'; failure?: StoredFailure }
  | { kind: 'lost'; error: OncefleetError };

/** One that can be written to the row. */
export type SettledVerdict = Exclude<Verdict, { kind: 'lost' }>;

/** What a run's abort makes of it; undefined where the reason is an error like any other. */
export function verdictOfAbort(reason: Error): Verdict | undefined {
  if (reason instanceof CancelledError) return { kind: 'cancelled', failure: toStoredFailure(reason) };
  if (reason instanceof InterruptedError) return { kind: 'interrupted' };
  if (reason instanceof LeaseLostError) return { kind: 'lost', error: reason };
  const isFinal =
    reason instanceof OncefleetError && (reason.code === 'DEADLINE_EXCEEDED' || reason.code === 'JOURNAL_REFUSED');
  return isFinal ? { kind: 'failed', failure: toStoredFailure(reason), error: reason } : undefined;
}

/** JSON text of a result; `undefined` has none, `null` has. @throws OncefleetError EVENT_INVALID */
export function encodeResult(value: unknown): string | null {
  return value === undefined ? null : encodeJson(value, 'result');
}

/** Of a job of the fleet: its row counts the errors and knows the backoff. */
export function verdictOfError(error: Error, claimed: ClaimedJob): SettledVerdict {
  const failure = toStoredFailure(error);
  if (isFinal(error) || claimed.errorCount + 1 >= claimed.options.attempts) return { kind: 'failed', failure, error };
  const delayMs = retryAfter(error) ?? backoffMs(claimed.options.backoff, claimed.errorCount + 1);
  return { kind: 'retry', failure, error, delayMs };
}

/** Around a user's own processor: BullMQ says what it does about the error, and the row follows. */
export async function verdictByBullMQ(error: Error, job: Job): Promise<SettledVerdict> {
  const failure = toStoredFailure(error);
  if (isFinal(error)) return { kind: 'failed', failure, error };
  let delayMs: number | undefined;
  try {
    delayMs = await retryDelayOf(job, error);
  } catch {
    // An unknown strategy, or one that throws: BullMQ will say so, and come back to the job.
    return { kind: 'retry', failure, error, delayMs: 0, undecided: true };
  }
  if (delayMs === undefined) return { kind: 'failed', failure, error };
  return { kind: 'retry', failure, error, delayMs: retryAfter(error) ?? clampDelayMs(delayMs) };
}

/** The processor moved its job with BullMQ's own calls, and says so by this error. */
export function verdictOfControlFlow(error: Error, job: Job): SettledVerdict | undefined {
  if (!isControlFlow(error)) return undefined;
  // `moveToDelayed` leaves it there. The other places have no time of their own.
  return { kind: 'deferred', error, delayMs: error.name === 'DelayedError' ? clampDelayMs(job.delay) : 0 };
}

/** Input and output that fail their schemas will fail them again. */
function isFinal(error: Error): boolean {
  if (error instanceof NonRetryableError || isUnrecoverable(error)) return true;
  return error instanceof OncefleetError && (error.code === 'INPUT_INVALID' || error.code === 'OUTPUT_INVALID');
}

/**
 * Whether a handler failed because its connection to Postgres was lost: that is no failure of the job. What it says of
 * trying again stands, though.
 */
export function isByLostConnection(error: Error): boolean {
  return !(error instanceof RetryAfterError) && !isFinal(error) && isConnectionLost(error);
}

/** A handler takes this number from a header of somebody else's server. Undefined: it is none, and the backoff decides. */
function retryAfter(error: Error): number | undefined {
  if (!(error instanceof RetryAfterError)) return undefined;
  const ms = toNumber(error.retryAfterMs);
  return Number.isFinite(ms) ? clampDelayMs(ms) : undefined;
}

export function settlementOf(
  verdict: SettledVerdict,
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
    case 'deferred':
      return { ...none, status: 'pending', outcome: 'deferral', delayMs: verdict.delayMs };
    case 'cancelled':
      return { ...none, status: 'cancelled', outcome: 'cancelled', error: JSON.stringify(verdict.failure) };
    case 'interrupted': {
      const error = verdict.failure === undefined ? null : JSON.stringify(verdict.failure);
      return { ...none, status: 'pending', outcome: 'interruption', error };
    }
    default:
      return verdict satisfies never;
  }
}

/** What the stream says of a verdict; an interruption is told by the `attempt` that follows it. */
export function eventOf(verdict: SettledVerdict, claimed: ClaimedJob): string | undefined {
  const plan = settlementOf(verdict);
  if (plan.status !== 'pending')
    return rowTerminalJson({ status: plan.status, result: plan.result, error: plan.error });
  if (verdict.kind !== 'retry') return undefined;
  return JSON.stringify({
    type: 'retry',
    attempt: attemptOf(claimed),
    delayMs: verdict.delayMs,
    error: verdict.failure,
  } satisfies SystemEvent);
}

const REASONS: ReadonlyMap<LastOutcome | null, AttemptReason> = new Map([
  ['error', 'error'],
  ['interruption', 'interruption'],
  ['redrive', 'redrive'],
] as const);

/** What a stream says of an attempt after the first one. */
export function attemptEvent(claimed: ClaimedJob, attempt: number, onRetry: JobPolicy['onRetry']): AttemptEvent {
  const reason = REASONS.get(claimed.lastOutcome) ?? 'crash';
  // Nothing is superseded: this event's own seq is past everything before it.
  if (onRetry === 'continue' || isContinued(claimed))
    return { type: 'attempt', attempt, reason, resumed: true, from: claimed.nextSeq };
  return {
    type: 'attempt',
    attempt,
    reason,
    resumed: claimed.checkpoint !== null,
    ...(claimed.checkpointSeq === null ? {} : { from: claimed.checkpointSeq }),
  };
}

/** Its processor deferred the job, and continues where it was: the same attempt, of which the stream says nothing. */
export function isContinued(claimed: ClaimedJob): boolean {
  return claimed.lastOutcome === 'deferral';
}

function backoffMs(backoff: RowOptions['backoff'], failures: number): number {
  const base = backoff.type === 'fixed' ? backoff.delayMs : backoff.delayMs * 2 ** Math.min(failures - 1, 30);
  const capped = Math.min(base, backoff.maxDelayMs ?? 300_000);
  return clampDelayMs(Math.round(capped * (1 - Math.random() * (backoff.jitter ?? 0.2))));
}

/**
 * A failure that BullMQ must not try again, for a delivery that did not run. BullMQ shows it with its
 * code in front, but for what a handler threw once: that is shown in its own words.
 */
export function toUnrecoverable({ code, message }: StoredFailure): UnrecoverableError {
  const isHandlers = code === 'HANDLER_ERROR' || code === 'NON_RETRYABLE';
  return new UnrecoverableError(isHandlers ? message : `${code}: ${message}`);
}
