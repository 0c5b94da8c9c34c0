/** What a delivery may be told of its job, and the row of a claim statement that says it. */
import type { StoredFailure } from '../../errors.ts';
import type { RowOptions } from './insert.ts';
import { readRowOptions } from './row-options.ts';
import type { AbandonReason, LastOutcome, TerminalStatus } from './states.ts';

export interface ClaimRequest {
  id: string;
  /** Unique per delivery: a claim whose answer was lost is recognised by it. */
  owner: string;
  ttlMs: number;
  maxCrashes: number;
  /** BullMQ's attemptsMade of this delivery. */
  delivery: number;
  /** BullMQ starts it anew, with its counts reset: as good as a higher `delivery`. */
  restarted?: boolean;
  /** BullMQ has the job under the row's id; another client's duplicate has an id, and a count, of its own. */
  own: boolean;
  /** That of the delivery. */
  queue?: string;
  /** What the delivery calls the job, which must be what its row says. Undefined: the row was found or made by what it is. */
  as?: { tenant: string; name: string } | undefined;
  /** BullMQ, not the row, says when the job runs. */
  early?: boolean;
}

export interface ClaimedJob {
  id: string;
  /** Of the lease. */
  owner: string;
  tenant: string;
  name: string;
  /** That of the delivery. */
  queue: string;
  key: string | null;
  fence: number;
  /** JSON text. */
  input: string;
  options: RowOptions;
  crashCount: number;
  errorCount: number;
  interruptionCount: number;
  lastOutcome: LastOutcome | null;
  /** JSON text. */
  checkpoint: string | null;
  checkpointSeq: number | null;
  /** Time left until the deadline over all attempts. */
  deadlineLeftMs: number | null;
  /** The seq at which its stream continues. */
  nextSeq: number;
  /** When the claim was answered, by `performance.now()`. */
  claimedAt: number;
  /** Keys of the limits under which it has taken a place; absent where none holds for it. */
  limitKeys?: readonly string[];
}

/** When free places of a key are to be looked for. */
export interface KeyWake {
  key: string;
  againInMs: number;
}

export type ClaimAnswer =
  | { decision: 'claimed'; job: ClaimedJob }
  | { decision: 'completed'; result: string | null }
  | { decision: 'failed'; error: StoredFailure }
  | { decision: 'cancelled' }
  /** A person retried the failed job in BullMQ, or a completed one that has no key. */
  | { decision: 'retried' }
  /** `heldMs`: for how long its owner has had it, at `fence`. */
  | { decision: 'held'; leaseLeftMs: number; heldMs: number; tenant: string; name: string; fence: number }
  /** The process that meets it finishes it: cancel requested, deadline passed, crashed too often. */
  | { decision: 'end'; why: AbandonReason }
  /** By Postgres's clock it may not run yet: whoever made it due has another time. */
  | { decision: 'early'; dueInMs: number }
  /** A limit of its definition, its tenant or its queue is met. It waits for a place under `key`, and is woken. */
  | {
      decision: 'limited';
      key: string;
      /** After this it comes by itself, if nothing has woken it. */
      backstopMs: number;
      again: readonly KeyWake[];
      tenant: string;
      name: string;
      fence: number;
    }
  /** Somebody holds the row's lock just now. */
  | { decision: 'busy' }
  /** The row is another tenant's, or has another name. It was left as it is. */
  | { decision: 'refused' }
  | { decision: 'missing' };

export interface ClaimRow {
  id: string;
  decision: 'claimed' | 'retried' | 'held' | 'early' | 'gated' | 'limited' | TerminalStatus | AbandonReason;
  lease_left_ms?: number | null;
  due_in_ms?: number | null;
  held_ms?: number | null;
  old_result: string | null;
  old_error?: string | null;
  tenant: string;
  name: string;
  idempotency_key: string | null;
  fence: number;
  input: string;
  options: string;
  crash_count: number;
  error_count: number;
  interruption_count: number;
  last_outcome: LastOutcome | null;
  checkpoint: string | null;
  checkpoint_seq: number | null;
  deadline_left_ms: number | null;
  next_seq?: number | null;
  /** Of the row: JSON text of an array. */
  limit_keys?: string | null;
  /** Of a claimed job: those under which it has taken a place. Of one that waits: the one whose limit it has met. */
  keys?: readonly string[];
  again?: readonly KeyWake[];
}

export function toAnswer(row: ClaimRow, { owner, queue = '' }: ClaimRequest): ClaimAnswer {
  switch (row.decision) {
    case 'claimed':
      return {
        decision: 'claimed',
        job: {
          id: row.id,
          owner,
          tenant: row.tenant,
          name: row.name,
          queue,
          key: row.idempotency_key,
          fence: row.fence,
          input: row.input,
          options: readRowOptions(row.options),
          crashCount: row.crash_count,
          errorCount: row.error_count,
          interruptionCount: row.interruption_count,
          lastOutcome: row.last_outcome,
          checkpoint: row.checkpoint,
          checkpointSeq: row.checkpoint_seq,
          deadlineLeftMs: row.deadline_left_ms,
          nextSeq: row.next_seq ?? 0,
          claimedAt: performance.now(),
          ...(row.keys === undefined ? {} : { limitKeys: row.keys }),
        },
      };
    case 'completed':
      return { decision: 'completed', result: row.old_result };
    case 'failed':
      return { decision: 'failed', error: readFailure(row.old_error) };
    case 'held':
      return {
        decision: 'held',
        leaseLeftMs: row.lease_left_ms ?? 0,
        heldMs: row.held_ms ?? 0,
        ...heldJobOf(row),
      };
    case 'early':
      return { decision: 'early', dueInMs: row.due_in_ms ?? 0 };
    case 'limited':
      return {
        decision: 'limited',
        key: row.keys?.[0] ?? '',
        backstopMs: row.due_in_ms ?? 0,
        again: row.again ?? [],
        ...heldJobOf(row),
      };
    // The row was locked when its turn under its limits came.
    case 'gated':
      return { decision: 'busy' };
    case 'cancel':
    case 'deadline':
    case 'poison':
      return { decision: 'end', why: row.decision };
    case 'cancelled':
    case 'retried':
      return { decision: row.decision };
    default:
      return row.decision satisfies never;
  }
}

export function heldJobOf({ tenant, name, fence }: ClaimRow): { tenant: string; name: string; fence: number } {
  return { tenant, name, fence };
}

/** A row that somebody failed by hand may say nothing of why. */
function readFailure(json: string | null | undefined): StoredFailure {
  const failure = JSON.parse(json ?? 'null') as Partial<StoredFailure> | null;
  return { code: failure?.code ?? 'INTERNAL', message: failure?.message ?? 'The row of the job has no error' };
}
