/** A job ends from outside: nobody runs it, and it was cancelled, is past its deadline or crashed too often. */
import { type Kysely, sql, type Transaction } from 'kysely';
import { CancelledError, OncefleetError, type StoredFailure, toStoredFailure } from '../../errors.ts';
import { insertPoisonAlert, type PoisonAlert } from '../poison-alerts.ts';
import type { Database } from '../schema.ts';
import { closeHeads } from '../streams/heads.ts';
import { type EventBatch, segmentText } from '../streams/segments.ts';
import { rowTerminalJson } from '../streams/terminal.ts';
import { IDLE_OWNER_MS, keepAttempt, limitIdleTime } from './attempts.ts';
import { writeDropped } from './settle.ts';
import { type AbandonReason, abandonReason, attemptOf, crashesOf, leaseHeld } from './states.ts';

export interface FinishedJob {
  /** What to publish. */
  batch: EventBatch;
  status: 'failed' | 'cancelled';
  reason: AbandonReason;
  tenant: string;
  name: string;
  queue: string;
  /** Attempts that the job has had. */
  attempts: number;
  error: StoredFailure;
  /** Noted with the end of a poisoned job: its hook is to be called now. */
  alert: Omit<PoisonAlert, 'calls'> | undefined;
}

interface FinishOptions {
  /** How long the outcome is kept for the key. */
  resultTtlMs: number;
  /** Crashes with which the job may still run; undefined: any number. */
  maxCrashes: number | undefined;
  /** BullMQ's attemptsMade of the delivery that met the job, if one did. */
  delivery?: number;
  /** Cancels it whether a cancel was requested or not. */
  cancel?: boolean;
}

/**
 * Ends a job that nobody runs, if it must end. The fence goes up and the stream's head with it, so
 * that a previous owner that is still alive cannot write.
 *
 * @returns undefined when somebody runs it, it may run, it has ended, or its row is locked
 */
export async function finishAbandoned(
  db: Kysely<Database>,
  id: string,
  { resultTtlMs, maxCrashes, delivery, cancel = false }: FinishOptions,
): Promise<FinishedJob | undefined> {
  return db.transaction().execute(async (trx) => {
    await limitIdleTime(trx, IDLE_OWNER_MS);
    const row = await lockUnfinished(trx, id, maxCrashes);
    if (row === undefined || row.held) return undefined;
    const reason = cancel ? 'cancel' : row.reason;
    if (reason === null) return undefined;
    const error = toStoredFailure(failureOf(reason, { id, crashes: row.crashes, maxCrashes }));
    const errorJson = JSON.stringify(error);
    const status = reason === 'cancel' ? 'cancelled' : 'failed';
    const terminalJson = rowTerminalJson({ status, result: null, error: status === 'failed' ? errorJson : null });
    const fence = row.fence + 1;
    const { rows } = await sql<{ next_seq: number }>`
      with ended as (select ${id}::uuid as id, ${fence}::bigint as fence)
      ${sql.raw(closeHeads('ended'))}`.execute(trx);
    const seq = (rows[0] as { next_seq: number }).next_seq - 1;
    await trx
      .insertInto('journal_segments')
      .values({ stream_id: id, first_seq: seq, last_seq: seq, fence, events: segmentText([terminalJson]) })
      .execute();
    await keepAttempt(trx, { id, ...row, outcome: reason === 'poison' ? 'poisoned' : 'crash', error: errorJson });
    const ended = await trx
      .updateTable('jobs')
      .set({
        status,
        fence,
        error: errorJson,
        crash_count: row.crashes,
        lease_owner: null,
        lease_expires_at: null,
        claimed_at: null,
        last_outcome: reason === 'poison' ? 'poisoned' : status,
        ended_at_delivery: status === 'failed' ? (delivery ?? null) : null,
        finished_at: sql`clock_timestamp()`,
        expires_at: sql`clock_timestamp() + ${resultTtlMs}::float8 * interval '1 ms'`,
      })
      .where('id', '=', id)
      .executeTakeFirst();
    if (ended.numUpdatedRows === 0n) throw writeDropped('the end', { id, fence });
    await trx.deleteFrom('unfinished_jobs').where('job_id', '=', id).execute();
    const { tenant, name, queue, crashes } = row;
    const alert = reason === 'poison' ? { jobId: id, fence, tenant, name, queue, crashes } : undefined;
    if (alert !== undefined) await insertPoisonAlert(trx, alert);
    const { error_count: errorCount, interruption_count: interruptionCount } = row;
    const attempts = attemptOf({ crashCount: crashes, errorCount, interruptionCount }) - 1;
    const batch = { streamId: id, fence, firstSeq: seq, events: [terminalJson] };
    return { batch, status, reason, error, tenant, name, queue, attempts, alert };
  });
}

/** The row of a job that has not ended, locked; undefined also where somebody else has it locked. */
function lockUnfinished(trx: Transaction<Database>, id: string, maxCrashes: number | undefined) {
  return trx
    .selectFrom('jobs')
    .select([
      'tenant',
      'name',
      'queue',
      'fence',
      'worker',
      'claimed_at',
      'error_count',
      'interruption_count',
      sql<number>`${sql.raw(crashesOf('jobs'))}`.as('crashes'),
      sql<boolean>`${sql.raw(leaseHeld('jobs'))}`.as('held'),
      // As a literal: the rule takes SQL, and the builder numbers its own parameters.
      sql<AbandonReason | null>`${sql.raw(abandonReason('jobs', maxCrashes === undefined ? 'null' : String(Math.trunc(maxCrashes))))}`.as(
        'reason',
      ),
    ])
    .where('id', '=', id)
    .where('status', 'in', ['pending', 'running'])
    .forUpdate()
    .skipLocked()
    .executeTakeFirst();
}

function failureOf(
  reason: AbandonReason,
  { id, crashes, maxCrashes }: { id: string; crashes: number; maxCrashes: number | undefined },
): OncefleetError {
  switch (reason) {
    case 'cancel':
      return new CancelledError(id);
    case 'deadline':
      return new OncefleetError('DEADLINE_EXCEEDED', 'The job was not finished by its deadline');
    case 'poison':
      return new OncefleetError(
        'POISONED',
        `The job crashed or lost its worker ${crashes} times; the limit is ${maxCrashes}`,
      );
    default:
      return reason satisfies never;
  }
}
