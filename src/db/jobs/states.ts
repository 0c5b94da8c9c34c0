/**
 * The states of a job and the rules on its row, each written once: every statement takes them
 * from here. A new rule for claims goes into `abandonReason` (the job ends) or beside it.
 *
 * Locks: whatever changes a fence or ends a lease takes the row `for update`; `lockFence` takes it
 * `for key share`. The two exclude each other, while a heartbeat (an update of no key column)
 * passes beside the second: a long user transaction keeps its lease renewed, and nobody takes the
 * job over in the middle of it. Two statements need no lock: the first claim (there was no owner)
 * and the end of a run without events (nobody takes over a completed job).
 */
export const JOB_STATUSES = ['pending', 'running', 'completed', 'failed', 'cancelled'] as const;

export type JobStatus = (typeof JOB_STATUSES)[number];
export type TerminalStatus = Exclude<JobStatus, 'pending' | 'running'>;

export function isTerminalStatus(status: JobStatus): status is TerminalStatus {
  return status !== 'pending' && status !== 'running';
}

/** How an attempt ended, as the ledger says it. */
export const ATTEMPT_OUTCOMES = [
  'completed',
  'error',
  'crash',
  'interruption',
  'deferral',
  'cancelled',
  'poisoned',
] as const;

export type AttemptOutcome = (typeof ATTEMPT_OUTCOMES)[number];

/** What happened to a job last: an attempt ended, the job failed without one, or it was redriven. */
export type LastOutcome = AttemptOutcome | 'failed' | 'redrive';

/** Changes of a job that observers are told of. */
export const TRANSITIONS = [
  'created',
  'dispatched',
  'claimed',
  'deferred',
  'limited',
  'retried',
  'completed',
  'failed',
  'poisoned',
  'cancelled',
  'interrupted',
  'redriven',
  'expired',
] as const;

export type TransitionType = (typeof TRANSITIONS)[number];

/** What made a transition: a caller of the library (HTTP and command line too), a delivery, or one of those that look after jobs. */
export type TransitionMaker = 'client' | 'worker' | 'outbox' | 'reconciler' | 'sweeper' | 'doctor' | 'board';

/** Which attempt of its job a claim is: a deferral by the processor is none of its own. */
export function attemptOf(claimed: { crashCount: number; errorCount: number; interruptionCount: number }): number {
  return claimed.crashCount + claimed.errorCount + claimed.interruptionCount + 1;
}

/** SQL: the attempts that a job has had, as `attemptOf` counts them. */
export const attemptsOf = (job: string) => `(${job}.crash_count + ${job}.error_count + ${job}.interruption_count)`;

/** Why a job that nobody runs must end. */
export type AbandonReason = 'cancel' | 'deadline' | 'poison';

/** SQL: the outcome is past its TTL, so that it is not replayed and its key can be reused. */
export const EXPIRED = 'coalesce(finished_at is not null and expires_at <= clock_timestamp(), false)';

/** SQL: the job has not ended. */
export const unfinished = (job: string) => `${job}.status in ('pending', 'running')`;

/** SQL: a run holds the job now. */
export const leaseHeld = (job: string) =>
  `coalesce(${job}.status = 'running' and ${job}.lease_expires_at > clock_timestamp(), false)`;

/** SQL, of a job that nobody runs: its crashes. An expired lease is one that no claim has counted yet. */
export const crashesOf = (job: string) => `(${job}.crash_count + (${job}.status = 'running')::int)`;

/**
 * SQL, of a job that nobody runs: why it must end, as an `AbandonReason`; null when it may run.
 *
 * @param maxCrashes SQL; null counts no crashes
 */
export const abandonReason = (job: string, maxCrashes: string) => `case
    when ${job}.cancel_requested_at is not null then 'cancel'
    when ${job}.deadline_at <= clock_timestamp() then 'deadline'
    when ${crashesOf(job)} > ${maxCrashes} then 'poison'
  end`;

/** SQL: the job must end, whatever its crashes: a cancel was requested or its deadline has passed. */
export const mustEnd = (job: string) => `(${abandonReason(job, 'null')} is not null)`;

/** What the keys of tenants' limits and of queues' pauses begin with; no limit of a definition has such a name. */
export const TENANT_KEY = '@tenant/';
export const QUEUE_KEY = '@queue/';

/** The name of the limit that a key belongs to; the key itself may be a customer's name. */
export function limitOf(key: string): string {
  return key.slice(0, key.indexOf('/'));
}

/** SQL: a limit of its tenant holds for the job, whatever its definition says. Where no tenant has one, that is asked once a statement. */
export const tenantLimited = (
  job: string,
) => `((select exists (select from oncefleet.tenant_limits)) and exists (select from oncefleet.tenant_limits l
    where l.tenant = ${job}.tenant and coalesce(l.concurrency, l.rate_max) is not null))`;

/** SQL: a limit may hold for the job, so that its claim waits for its turn under the keys. */
export const gated = (job: string) => `(${job}.limit_keys is not null or ${tenantLimited(job)}
    or (select exists (select from oncefleet.limit_keys))
      and exists (select from oncefleet.limit_keys k where k.key = '${QUEUE_KEY}' || ${job}.queue and k.paused_until > clock_timestamp()))`;

/**
 * SQL: ms until a time, negative when it has passed, null for none. A century either way at most: before Postgres 17
 * an infinite time is an error of the whole statement, and a far one is no number that timers and Redis take.
 */
export const msUntil = (time: string) => `case when ${time} is not null then extract(epoch from
    least(greatest(${time}, clock_timestamp() - interval '100 years'), clock_timestamp() + interval '100 years') - clock_timestamp())::float8 * 1000 end`;

/** Statements lock the rows of a batch in this order, heartbeats too; else two of them could wait for each other. */
export function byId(a: { id: string }, b: { id: string }): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}
