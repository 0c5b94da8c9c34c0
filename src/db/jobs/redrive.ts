import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { reopenHead } from '../streams/heads.ts';
import { segmentText } from '../streams/segments.ts';
import { rowTerminalJson } from '../streams/terminal.ts';
import { IDLE_OWNER_MS, keepAttempt, limitIdleTime } from './attempts.ts';
import type { AttemptOutcome, LastOutcome, TerminalStatus } from './states.ts';

/**
 * Redrives a job that has ended: counters at zero, the fence continues, the stream is open again.
 *
 * @param from `ended`: also one that completed, which BullMQ's own retry of a job without a key means
 * @returns undefined when the job has not failed (or not ended), or is not there
 */
export async function redriveJob(
  db: Kysely<Database>,
  id: string,
  from: 'failed' | 'ended' = 'failed',
): Promise<{ queue: string; tenant: string; name: string; fence: number } | undefined> {
  return db.transaction().execute(async (trx) => {
    await limitIdleTime(trx, IDLE_OWNER_MS);
    const row = await trx
      .selectFrom('jobs')
      .select([
        'queue',
        'tenant',
        'name',
        'status',
        'fence',
        'result',
        'error',
        'worker',
        'claimed_at',
        'finished_at',
        'last_outcome',
      ])
      .where('id', '=', id)
      .where('status', 'in', from === 'failed' ? ['failed'] : ['failed', 'completed'])
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) return undefined;
    // Readers have seen the failure at its seq, so it must stay there.
    if (!(await reopenHead(trx, id, row.fence))) {
      const { result, error } = row;
      const terminalJson = rowTerminalJson({ status: row.status as TerminalStatus, result, error });
      await trx
        .insertInto('journal_segments')
        .values({ stream_id: id, first_seq: 0, last_seq: 0, fence: row.fence, events: segmentText([terminalJson]) })
        .execute();
    }
    await keepAttempt(trx, { id, ...row, outcome: attemptOutcomeOf(row.last_outcome) });
    await trx
      .updateTable('jobs')
      .set({
        status: 'pending',
        result: null,
        error: null,
        claimed_at: null,
        crash_count: 0,
        error_count: 0,
        deferral_count: 0,
        interruption_count: 0,
        limited_count: 0,
        last_outcome: 'redrive',
        ended_at_delivery: null,
        finished_at: null,
        expires_at: null,
        cancel_requested_at: null,
        run_at: sql`clock_timestamp()`,
        deadline_at: sql`clock_timestamp() + (deadline_at - created_at)`,
      })
      .where('id', '=', id)
      .execute();
    await sql`
      insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from oncefleet.jobs where id = ${id}
      on conflict (job_id) do update set run_at = excluded.run_at, end_by = excluded.end_by`.execute(trx);
    const { queue, tenant, name, fence } = row;
    return { queue, tenant, name, fence };
  });
}

/** The outcome of the attempt that a job ended with. A job that failed from outside had no attempt, or keeps it already. */
function attemptOutcomeOf(last: LastOutcome | null): AttemptOutcome {
  return last === null || last === 'failed' || last === 'redrive' ? 'error' : last;
}
