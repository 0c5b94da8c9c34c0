import { type Kysely, sql } from 'kysely';
import { OncefleetError } from '../../errors.ts';
import type { Database } from '../schema.ts';
import { named, ONE_ROW, textArray, unnamed } from '../statement.ts';
import { advanceHeads } from '../streams/heads.ts';
import { type EventBatch, lastProgress, segmentText } from '../streams/segments.ts';
import { type AttemptOutcome, byId, type TerminalStatus } from './states.ts';

/** The end of a run: where the row goes, and what the stream gets with it. */
export interface Settlement {
  id: string;
  fence: number;
  status: 'pending' | TerminalStatus;
  outcome: Exclude<AttemptOutcome, 'crash' | 'poisoned'>;
  /** JSON text. */
  result: string | null;
  /** JSON text of a StoredFailure: the row's when it fails, always the attempt's. */
  error: string | null;
  /** How long the outcome is kept for the key. */
  resultTtlMs: number;
  /** For `pending`: until it may run again. */
  delayMs: number;
  /** BullMQ's attemptsMade of the delivery. A later one with more was retried by a person, and redrives a failed job. */
  delivery: number;
  /** Such a retry also redrives it when it has completed: nobody gave it a key. */
  rerunnable?: boolean;
  /** Events of the same transaction; absent where the stream has none and gets none. */
  batch: EventBatch | undefined;
}

/**
 * Ends several runs, each at its fence: status, result, ledger, last events and the release
 * of the lease, in one statement.
 *
 * @returns those that were accepted; the others' leases are lost. Not ids: a process may end a run
 *   whose lease it has lost beside the one with which it took the job over itself
 */
export async function settleJobs(db: Kysely<Database>, given: readonly Settlement[]): Promise<Set<Settlement>> {
  const settlements = given.toSorted(byId);
  const eventless = settlements.filter(({ status, batch }) => status === 'completed' && batch === undefined);
  if (eventless.length === 0) return settleAny(db, settlements);
  const accepted = await settleEventless(db, eventless);
  if (eventless.length === settlements.length) return accepted;
  return accepted.union(
    await settleAny(
      db,
      settlements.filter((settlement) => !eventless.includes(settlement)),
    ),
  );
}

/** Completes runs that have emitted nothing: their streams have no head, and get none. */
async function settleEventless(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const statement = db.isTransaction ? unnamed : named;
  const result = await db.executeQuery(
    statement<{ id: string; fence: number }>(
      'settle_eventless',
      `with want as (
        select id::uuid, fence, result_ttl_ms, result, ended_at
        from unnest($1::text[], $2::bigint[], $3::float8[], $4::text[], $5::int[])
          with ordinality as w (id, fence, result_ttl_ms, result, ended_at, place)
        where ${ONE_ROW}
      ), completed as (
        update oncefleet.jobs j set
          status = 'completed',
          result = w.result::json,
          lease_owner = null,
          lease_expires_at = null,
          last_outcome = 'completed',
          ended_at_delivery = w.ended_at,
          finished_at = clock_timestamp(),
          expires_at = clock_timestamp() + w.result_ttl_ms * interval '1 ms'
        from want w
        where j.id = w.id and j.fence = w.fence and j.status = 'running'
        returning j.id, j.fence
      ), finished as (
        delete from oncefleet.unfinished_jobs u using completed c where u.job_id = c.id
      )
      select id, fence from completed`,
      [
        textArray(settlements.map((s) => s.id)),
        settlements.map((s) => s.fence),
        settlements.map((s) => s.resultTtlMs),
        textArray(settlements.map((s) => s.result)),
        settlements.map(endedAtDelivery),
      ],
    ),
  );
  return acceptedOf(settlements, result.rows);
}

function endedAtDelivery({ status, delivery, rerunnable }: Settlement): number | null {
  return status === 'failed' || (status === 'completed' && rerunnable === true) ? delivery : null;
}

/** Any end of a run, with its events. */
const SETTLE_ANY = `with want as (
    select *, first_seq is not null as has_batch
    from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::int[], $8::bigint[], $9::bigint[], $10::bool[], $11::text[],
        $12::text[], $13::text[], $14::text[])
      with ordinality as w (id, fence, status, outcome, result_ttl_ms, delay_ms, ended_at, first_seq, last_seq, terminal, progress, result, error, events, place)
    where ${ONE_ROW}
  ), held as (
    select w.*, j.worker, j.claimed_at from oncefleet.jobs j join want w on w.id = j.id
    where j.fence = w.fence and j.status = 'running'
    for update of j
  ), batch as (
    select id as stream_id, fence, first_seq, last_seq, progress, terminal from held where has_batch
  ), ${advanceHeads('batch')}, accepted as (
    select w.* from held w
    where not w.has_batch or exists (select from advanced a where a.stream_id = w.id) or exists (select from opened o where o.stream_id = w.id)
  ), appended as (
    insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
    select id, first_seq, last_seq, fence, events::json from accepted where has_batch
  ), ledger as (
    insert into oncefleet.ended_attempts (job_id, fence, worker, started_at, outcome, error)
    select id, fence, worker, claimed_at, outcome, error::json from accepted where not terminal
  ), settled as (
    update oncefleet.jobs j set
      status = w.status,
      result = w.result::json,
      error = case when w.terminal then w.error::json end,
      lease_owner = null,
      lease_expires_at = null,
      error_count = j.error_count + (w.outcome = 'error')::int,
      interruption_count = j.interruption_count + (w.outcome = 'interruption')::int,
      deferral_count = j.deferral_count + (w.outcome = 'deferral')::int,
      last_outcome = w.outcome,
      claimed_at = case when w.terminal then j.claimed_at end,
      run_at = case when w.terminal then j.run_at else clock_timestamp() + w.delay_ms * interval '1 ms' end,
      ended_at_delivery = case when w.terminal then w.ended_at end,
      finished_at = case when w.terminal then clock_timestamp() end,
      expires_at = case when w.terminal then clock_timestamp() + w.result_ttl_ms * interval '1 ms' end
    from accepted w
    where j.id = w.id and j.fence = w.fence
    returning j.id, j.fence, j.run_at, w.terminal
  ), finished as (
    delete from oncefleet.unfinished_jobs u using settled s where u.job_id = s.id and s.terminal
  ), delayed as (
    update oncefleet.unfinished_jobs u set run_at = s.run_at from settled s where u.job_id = s.id and not s.terminal
  )
  select id, fence from settled`;

async function settleAny(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const statement = db.isTransaction ? unnamed : named;
  const result = await db.executeQuery(
    statement<{ id: string; fence: number }>('settle', SETTLE_ANY, [
      settlements.map((s) => s.id),
      settlements.map((s) => s.fence),
      settlements.map((s) => s.status),
      settlements.map((s) => s.outcome),
      settlements.map((s) => s.resultTtlMs),
      settlements.map((s) => s.delayMs),
      settlements.map(endedAtDelivery),
      settlements.map((s) => s.batch?.firstSeq ?? null),
      settlements.map((s) => (s.batch === undefined ? null : s.batch.firstSeq + s.batch.events.length - 1)),
      settlements.map((s) => s.status !== 'pending'),
      textArray(settlements.map((s) => (s.batch === undefined ? null : lastProgress(s.batch.events)))),
      textArray(settlements.map((s) => s.result)),
      textArray(settlements.map((s) => s.error)),
      textArray(settlements.map((s) => (s.batch === undefined ? null : segmentText(s.batch.events)))),
    ]),
  );
  return acceptedOf(settlements, result.rows);
}

function acceptedOf(
  settlements: readonly Settlement[],
  rows: readonly { id: string; fence: number }[],
): Set<Settlement> {
  const fences = new Map(rows.map(({ id, fence }) => [id, fence]));
  return new Set(settlements.filter(({ id, fence }) => fences.get(id) === fence));
}

/**
 * Why a settlement has changed no row: an earlier attempt committed it and its answer was lost (only the
 * holder of a fence settles at that fence, so the row is proof); the lease is lost; or the run still has its
 * lease, and its write was dropped: by the head of the stream, a trigger, a rule or row-level security.
 */
export type SettlementEnd = 'settled' | 'lost' | 'dropped';

export async function findEnds(
  db: Kysely<Database>,
  settlements: readonly Settlement[],
): Promise<Map<Settlement, SettlementEnd>> {
  const rows = await db
    .selectFrom('jobs')
    .select(['id', 'fence', 'status', 'last_outcome'])
    .where(sql<boolean>`id = any(${settlements.map((s) => s.id)}::uuid[])`)
    .execute();
  const byId = new Map(rows.map((row) => [row.id, row]));
  return new Map(
    settlements.map((s) => {
      const row = byId.get(s.id);
      if (row === undefined || row.fence !== s.fence) return [s, 'lost'];
      if (row.status === s.status && row.last_outcome === s.outcome) return [s, 'settled'];
      return [s, row.status === 'running' ? 'dropped' : 'lost'];
    }),
  );
}

/** Of settlements, those that are committed. */
export async function findSettled(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const found = await findEnds(db, settlements);
  return new Set(settlements.filter((settlement) => found.get(settlement) === 'settled'));
}

/** What to throw where a write at a fence changed nothing and the fence is held. */
export function writeDropped(
  what: string,
  { id, fence }: Pick<Settlement, 'id' | 'fence'>,
  cause?: Error,
): OncefleetError {
  return new OncefleetError(
    'WRITE_DROPPED',
    `Postgres wrote nothing of ${what} of job ${id} at fence ${fence}, although its lease is held: look for a trigger, a rule or row-level security on the tables of the fleet, and run oncefleet doctor`,
    { details: { jobId: id, fence }, ...(cause === undefined ? {} : { cause }) },
  );
}
