import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from '../schema.ts';
import type { AttemptOutcome } from './states.ts';

/** Postgres ends our transaction after its process has sent nothing for this time, so that no row stays locked longer. */
export const IDLE_OWNER_MS = 10_000;

export async function limitIdleTime(trx: Transaction<Database>, limitMs: number): Promise<void> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(limitMs)}, true)`.execute(trx);
}

/** Gives the attempt in a job's row a row of its own, because the job's row is about to be reused. */
export async function keepAttempt(
  trx: Transaction<Database>,
  job: {
    id: string;
    fence: number;
    worker: string | null;
    claimed_at: Date | null;
    finished_at?: Date | null;
    outcome: AttemptOutcome;
    error: string | null;
  },
): Promise<void> {
  if (job.claimed_at === null || job.worker === null) return;
  await trx
    .insertInto('ended_attempts')
    .values({
      job_id: job.id,
      fence: job.fence,
      worker: job.worker,
      started_at: job.claimed_at,
      finished_at: job.finished_at ?? sql`clock_timestamp()`,
      outcome: job.outcome,
      error: job.error,
    })
    .execute();
}

/** How many attempts of a job, up to its last one that ended, were interrupted in a row by a lost connection: these have an error. */
export async function countLostConnections(db: Kysely<Database>, jobId: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) filter (where error is not null) as count from oncefleet.ended_attempts
    where job_id = ${jobId} and fence > coalesce((
      select max(fence) from oncefleet.ended_attempts where job_id = ${jobId} and outcome <> 'interruption'
    ), 0)`.execute(db);
  return rows[0]?.count ?? 0;
}
