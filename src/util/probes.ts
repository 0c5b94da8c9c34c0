/**
 * What the parts of a process tell whoever measures them: how long a flush took, that a lease was lost.
 * Jobs are not told of here; their transitions have one door of their own (`Observers`).
 */

/** A write of a run whose fence was behind its row's or its stream's: nothing was written. */
export type RefusedWrite = 'append' | 'settle' | 'checkpoint' | 'transaction';

/** Must not throw: it is called in the middle of what it measures. */
export interface Probe {
  /** A batch of events of all streams has been committed. `characters` of JSON. */
  flushed(flush: { ms: number; streams: number; events: number; characters: number }): void;
  /** A flush has met a Postgres that does not answer, and is tried again. */
  flushFailed(): void;
  /** Redis has taken live messages, `ms` after they were handed over. */
  published(ms: number, messages: number): void;
  /** Live messages that Redis was not given, or did not take. Followers read the events from Postgres. */
  unpublished(reason: 'skipped' | 'failed', messages: number): void;
  writeRefused(write: RefusedWrite): void;
  /** `taken`: its row was at another fence. `expired`: it was not renewed in time. */
  leaseLost(why: 'taken' | 'expired'): void;
  /** A follower has found events in Postgres that no live message had brought. */
  gapFilled(events: number): void;
  /** A follower was too slow for live messages and reads from Postgres. */
  followerDemoted(): void;
  /** A round of the reconciler that this process has led, or failed to finish. */
  reconciled(round: { ms: number; repaired: number; failed: boolean }): void;
  /** An event `usage` of a handler: tokens of a model. */
  tokensUsed(job: { name: string; tenant: string }, usage: Readonly<Record<string, unknown>>): void;
}

/** The place of a process's probe. Empty by default; nothing is measured or put together then. */
export class Probes {
  listener: Probe | undefined;
}
