/**
 * Queries on `jobs` and their attempts.
 *
 * Whatever changes a fence or ends a lease takes the row `for update`; `lockFence` takes it
 * `for key share`. The two exclude each other, while a heartbeat (an update of no key
 * column) passes beside the second: a long user transaction keeps its lease renewed, and
 * nobody takes the job over in the middle of it. Two do without: the first claim (there was no
 * owner) and the end of a silent run (nobody takes over what is completed).
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { StoredFailure } from '../errors.ts';
import { FOLD_FROM_SEQ, lastProgress, type Run, segmentText } from './journal.ts';
import { insertPoisonAlert, type PoisonAlert } from './poison-alerts.ts';
import type { Database } from './schema.ts';
import { named, textArray, unnamed } from './statement.ts';

type Status = 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
type TerminalStatus = 'completed' | 'failed' | 'cancelled';

/** How an attempt ended, as the ledger says it. */
export type AttemptOutcome = 'completed' | 'error' | 'crash' | 'interruption' | 'cancelled' | 'poisoned';

/** What the row keeps of how it was enqueued. */
export interface RowOptions {
  priority: number;
  attempts: number;
  backoff: {
    type: 'fixed' | 'exponential';
    delayMs: number;
    maxDelayMs?: number | undefined;
    jitter?: number | undefined;
  };
  /** Events are published before they are committed; absent: after. */
  publish?: 'immediate';
}

export interface NewJob {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  key: string | null;
  fingerprint: string;
  /** JSON text. */
  input: string;
  options: RowOptions;
  delayMs: number;
  deadlineMs: number | null;
}

/**
 * How long an insert waits for a transaction of some caller that has one of its keys and has not
 * ended, ms. Longer than commits take; short, because a whole batch waits with it.
 */
const KEY_LOCK_WAIT_MS = 300;

/** Inserts several jobs in one statement; a key that is taken leaves its job out. @returns the inserted ids @throws 55P03 */
export async function insertJobs(db: Kysely<Database>, jobs: readonly NewJob[]): Promise<Set<string>> {
  const result = await db.executeQuery(
    named<{ id: string }>(
      'insert_jobs',
      `with patience as materialized (
         select set_config('lock_timeout', '${KEY_LOCK_WAIT_MS}', true)
       ), job as (
         insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, fingerprint, options, run_at, deadline_at, input)
         select id, tenant, name, queue, key, fingerprint, options::json,
           clock_timestamp() + delay_ms * interval '1 ms', clock_timestamp() + deadline_ms * interval '1 ms', input::json
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::float8[], $10::text[])
           as n (id, tenant, name, queue, key, fingerprint, options, delay_ms, deadline_ms, input), patience
         on conflict (tenant, name, idempotency_key) where not key_released do nothing
         returning id, run_at, deadline_at
       )
       insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from job
       returning job_id as id`,
      [
        jobs.map((job) => job.id),
        jobs.map((job) => job.tenant),
        jobs.map((job) => job.name),
        jobs.map((job) => job.queue),
        jobs.map((job) => job.key),
        jobs.map((job) => job.fingerprint),
        textArray(jobs.map((job) => JSON.stringify(job.options))),
        jobs.map((job) => job.delayMs),
        jobs.map((job) => job.deadlineMs),
        textArray(jobs.map((job) => job.input)),
      ],
    ),
  );
  return new Set(result.rows.map((row) => row.id));
}

export interface KeyedJob {
  id: string;
  fingerprint: string;
  status: Status;
  /** Its outcome is past its TTL: the key may start anew. */
  expired: boolean;
}

/** The one predicate that says an outcome is past its TTL, for readers and for who takes its key. */
export const EXPIRED = 'coalesce(finished_at is not null and expires_at <= clock_timestamp(), false)';

/** The jobs that hold several keys at present, in the order asked; a key nobody holds gives undefined. */
export async function findJobsByKey(
  db: Kysely<Database>,
  keys: readonly { tenant: string; name: string; key: string }[],
): Promise<(KeyedJob | undefined)[]> {
  const result = await db.executeQuery(
    named<KeyedJob & { place: number }>(
      'find_by_key',
      `select k.place, j.id, j.fingerprint, j.status, ${EXPIRED} as expired
       from unnest($1::text[], $2::text[], $3::text[]) with ordinality as k (tenant, name, key, place)
       join oncefleet.jobs j on j.tenant = k.tenant and j.name = k.name and j.idempotency_key = k.key and not j.key_released`,
      [keys.map((k) => k.tenant), keys.map((k) => k.name), keys.map((k) => k.key)],
    ),
  );
  const byPlace = new Map(result.rows.map((row) => [row.place, row]));
  return keys.map((_, i) => byPlace.get(i + 1));
}

/**
 * Takes a key from a job whose outcome expired (or, with `failedToo`, that failed), so that
 * a new row can have it. The old row stays as it is, found by its id.
 *
 * @returns whether the job held the key and let it go now
 */
export async function releaseKey(db: Kysely<Database>, jobId: string, failedToo: boolean): Promise<boolean> {
  const result = await db
    .updateTable('jobs')
    .set({ key_released: true })
    .where('id', '=', jobId)
    .where('key_released', '=', false)
    .where((eb) => eb.or([sql<boolean>`${sql.raw(EXPIRED)}`, ...(failedToo ? [eb('status', '=', 'failed')] : [])]))
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

export interface ClaimRequest {
  id: string;
  /** Unique per delivery: a claim whose answer was lost is recognised by it. */
  owner: string;
  ttlMs: number;
  maxCrashes: number;
  /** BullMQ's attemptsMade of this delivery. */
  delivery: number;
  /** BullMQ has the job under the row's id; another client's duplicate has an id, and a count, of its own. */
  own: boolean;
}

export interface ClaimedJob {
  id: string;
  /** Of the lease. */
  owner: string;
  tenant: string;
  name: string;
  key: string | null;
  fence: number;
  /** JSON text. */
  input: string;
  options: RowOptions;
  crashCount: number;
  errorCount: number;
  interruptionCount: number;
  lastOutcome: string | null;
  /** JSON text. */
  checkpoint: string | null;
  checkpointSeq: number | null;
  /** Time left until the deadline over all attempts, ms. */
  deadlineLeftMs: number | null;
  /** The seq its stream goes on at. */
  nextSeq: number;
}

export type ClaimAnswer =
  | { decision: 'claimed'; job: ClaimedJob }
  | { decision: 'completed'; result: string | null }
  | { decision: 'failed'; error: StoredFailure }
  | { decision: 'cancelled' }
  /** A person retried the failed job in BullMQ. */
  | { decision: 'retried' }
  | { decision: 'held'; leaseLeftMs: number }
  /** To be ended by whoever meets it: cancel requested, deadline passed, crashed too often. */
  | { decision: 'end'; why: AbandonReason }
  /** Somebody holds the row's lock just now. */
  | { decision: 'busy' }
  | { decision: 'missing' };

export type AbandonReason = 'cancel' | 'deadline' | 'poison';

interface ClaimRow {
  id: string;
  decision: 'claimed' | 'completed' | 'failed' | 'cancelled' | 'retried' | 'held' | 'cancel' | 'deadline' | 'poison';
  lease_left_ms?: number | null;
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
  last_outcome: string | null;
  checkpoint: string | null;
  checkpoint_seq: number | null;
  deadline_left_ms: number | null;
  next_seq?: number | null;
}

/**
 * The claim table, for several deliveries in one statement, by the database's clock.
 *
 * Rows that somebody has locked are skipped ('busy'), so one slow row never holds up a
 * batch. Taking over writes the stream's head at the new fence in the same statement: from
 * then on the journal refuses the last owner.
 */
export async function claimJobs(
  db: Kysely<Database>,
  requests: readonly ClaimRequest[],
  worker: string,
): Promise<ClaimAnswer[]> {
  // Several deliveries of one job in a batch: the first speaks for the job, the others meet its lease.
  const copies = new Map<string, number>();
  for (const { id } of requests) copies.set(id, (copies.get(id) ?? 0) + 1);
  const first = new Map<string, ClaimRequest>();
  for (const request of requests) if (!first.has(request.id)) first.set(request.id, request);
  const claims = [...first.values()].map((claim) => ({ ...claim, copies: copies.get(claim.id) as number })).sort(byId);
  const rows = await claimFresh(db, claims, worker);
  const others = claims.filter((claim) => !rows.has(claim.id));
  if (others.length > 0) for (const [id, row] of await claimAny(db, others, worker)) rows.set(id, row);
  const unseen = others.filter((claim) => !rows.has(claim.id)).map((claim) => claim.id);
  const locked = unseen.length === 0 ? new Set<string>() : await findExisting(db, unseen);
  return requests.map((request) => {
    const row = rows.get(request.id);
    if (row === undefined) return { decision: locked.has(request.id) ? 'busy' : 'missing' };
    if (row.decision === 'claimed' && first.get(request.id) !== request)
      return { decision: 'held', leaseLeftMs: request.ttlMs };
    return toAnswer(row, request.owner);
  });
}

/** Statements lock the rows of a batch in one order, heartbeats too, or two of them could wait for each other. */
function byId(a: { id: string }, b: { id: string }): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

type CountedClaim = ClaimRequest & { copies: number };

/**
 * The two rows of the table that nearly all deliveries meet: a job nobody has run yet, and
 * one that has ended. Half the work of the whole table, and nothing is locked but what is
 * claimed; a job of fence 0 has had no owner whose transaction could hold it.
 */
async function claimFresh(
  db: Kysely<Database>,
  claims: readonly CountedClaim[],
  worker: string,
): Promise<Map<string, ClaimRow>> {
  const result = await db.executeQuery(
    named<FreshRow>(
      'claim_fresh',
      `with want as (
        select id::uuid, owner, ttl_ms, copies
        from unnest($1::text[], $2::text[], $3::float8[], $4::int[]) as w (id, owner, ttl_ms, copies)
        where ttl_ms > 0 and copies >= 1 and owner <> ''
      ), fresh as (
        select w.* from want w join oncefleet.jobs j on j.id = w.id
        where j.fence = 0 and j.status = 'pending' and j.cancel_requested_at is null
          and (j.deadline_at is null or j.deadline_at > clock_timestamp())
        for no key update of j skip locked
      ), claimed as (
        update oncefleet.jobs j set
          status = 'running',
          fence = 1,
          lease_owner = w.owner,
          lease_expires_at = clock_timestamp() + w.ttl_ms * interval '1 ms',
          deferral_count = w.copies - 1,
          worker = $5,
          claimed_at = clock_timestamp(),
          started_at = clock_timestamp()
        from fresh w
        where j.id = w.id
        returning j.*
      ), early as (
        -- A person has a delayed job run at once: as a running one it is looked after among those due.
        update oncefleet.unfinished_jobs u set run_at = clock_timestamp()
        from claimed c where c.run_at > clock_timestamp() and u.job_id = c.id
      )
      select id, 'claimed' as decision, tenant, name, idempotency_key, options, input,
        extract(epoch from deadline_at - clock_timestamp())::float8 * 1000 as deadline_left_ms
      from claimed
      union all
      select j.id, j.status, null, null, null, null, j.result, null
      from want w join oncefleet.jobs j on j.id = w.id where j.status in ('completed', 'cancelled')`,
      [
        textArray(claims.map((claim) => claim.id)),
        textArray(claims.map((claim) => claim.owner)),
        claims.map((claim) => claim.ttlMs),
        claims.map((claim) => claim.copies),
        worker,
      ],
    ),
  );
  return new Map(result.rows.map((row) => [row.id, ofFresh(row)]));
}

interface FreshRow {
  id: string;
  decision: 'claimed' | 'completed' | 'cancelled';
  tenant: string;
  name: string;
  idempotency_key: string | null;
  options: string;
  /** Of a completed job: its result. */
  input: string;
  deadline_left_ms: number | null;
}

/** What a first claim finds is as `insertJobs` left it; reading it back would be half the answer. */
function ofFresh(row: FreshRow): ClaimRow {
  return {
    id: row.id,
    decision: row.decision,
    old_result: row.input,
    tenant: row.tenant,
    name: row.name,
    idempotency_key: row.idempotency_key,
    fence: 1,
    input: row.input,
    options: row.options,
    crash_count: 0,
    error_count: 0,
    interruption_count: 0,
    last_outcome: null,
    checkpoint: null,
    checkpoint_seq: null,
    deadline_left_ms: row.deadline_left_ms,
  };
}

/** The whole table. */
async function claimAny(
  db: Kysely<Database>,
  claims: readonly CountedClaim[],
  worker: string,
): Promise<Map<string, ClaimRow>> {
  const result = await db.executeQuery(
    named<ClaimRow>(
      'claim',
      `with want as (
        select * from unnest($1::uuid[], $2::text[], $3::float8[], $4::int[], $5::int[], $6::int[], $7::bool[])
          as w (id, owner, ttl_ms, max_crashes, delivery, copies, own)
        where ttl_ms > 0 and max_crashes >= 0 and copies >= 1
      ), ended as (
        -- Read without a lock, which would be a write, and a commit to wait for.
        select j.id, j.status, j.result from oncefleet.jobs j join want w on w.id = j.id
        where j.status in ('completed', 'cancelled')
      ), found as (
        select j.id, j.status, j.fence, j.lease_owner, j.lease_expires_at, j.crash_count, j.failed_at_delivery,
          j.cancel_requested_at, j.deadline_at, j.error, j.worker, j.claimed_at, w.owner, w.ttl_ms, w.max_crashes, w.delivery, w.copies, w.own
        from oncefleet.jobs j join want w on w.id = j.id
        where j.status not in ('completed', 'cancelled')
        for update of j skip locked
      ), decided as materialized (
        select found.*,
          status = 'running' and lease_owner = owner as again,
          case
            when status = 'failed' and delivery > failed_at_delivery then 'retried'
            when status = 'failed' then 'failed'
            when status = 'running' and lease_owner = owner then 'claimed'
            when status = 'running' and lease_expires_at > clock_timestamp() then 'held'
            when cancel_requested_at is not null then 'cancel'
            when deadline_at <= clock_timestamp() then 'deadline'
            when crash_count + (status = 'running')::int > max_crashes then 'poison'
            else 'claimed'
          end as decision
        from found
      ), claimed as (
        update oncefleet.jobs j set
          status = 'running',
          fence = j.fence + (not d.again)::int,
          lease_owner = d.owner,
          lease_expires_at = clock_timestamp() + d.ttl_ms * interval '1 ms',
          crash_count = j.crash_count + (d.status = 'running' and not d.again)::int,
          deferral_count = j.deferral_count + d.copies - 1,
          last_outcome = case when d.status = 'running' and not d.again then 'crash' else j.last_outcome end,
          worker = $8,
          claimed_at = case when d.again then j.claimed_at else clock_timestamp() end,
          started_at = coalesce(j.started_at, clock_timestamp())
        from decided d
        where j.id = d.id and d.decision = 'claimed'
        returning j.*
      ), early as (
        -- A person has a delayed job run at once: as a running one it is looked after among those due.
        update oncefleet.unfinished_jobs u set run_at = clock_timestamp()
        from claimed c where c.run_at > clock_timestamp() and u.job_id = c.id
      ), deferred as (
        update oncefleet.jobs j set deferral_count = j.deferral_count + d.copies
        from decided d where j.id = d.id and d.decision = 'held'
      ), noted as (
        -- Ended by no delivery, or BullMQ's job was replaced and counts anew: from this one on.
        update oncefleet.jobs j set failed_at_delivery = d.delivery
        from decided d
        where j.id = d.id and d.decision = 'failed'
          and (d.failed_at_delivery is null or d.own and d.delivery < d.failed_at_delivery)
      ), crashed as (
        insert into oncefleet.ended_attempts (job_id, fence, worker, started_at, outcome)
        select id, fence, worker, claimed_at, 'crash' from decided
        where status = 'running' and not again and decision = 'claimed'
      ), head as (
        insert into oncefleet.stream_heads (stream_id, fence, next_seq)
        select id, fence, 0 from claimed where fence > 1
        on conflict (stream_id) do update set fence = excluded.fence
        returning stream_id, next_seq
      )
      select d.id, d.decision, d.old_result, d.old_error,
        extract(epoch from d.lease_expires_at - clock_timestamp())::float8 * 1000 as lease_left_ms,
        c.tenant, c.name, c.idempotency_key, c.fence, c.input, c.options, c.crash_count, c.error_count, c.interruption_count,
        c.last_outcome, c.checkpoint, c.checkpoint_seq,
        extract(epoch from c.deadline_at - clock_timestamp())::float8 * 1000 as deadline_left_ms,
        h.next_seq
      from (
        select id, decision, null::json as old_result, error as old_error, lease_expires_at from decided
        union all
        select id, status, result, null, null from ended
      ) d
      left join claimed c on c.id = d.id left join head h on h.stream_id = d.id`,
      [
        claims.map((claim) => claim.id),
        claims.map((claim) => claim.owner),
        claims.map((claim) => claim.ttlMs),
        claims.map((claim) => claim.maxCrashes),
        claims.map((claim) => claim.delivery),
        claims.map((claim) => claim.copies),
        claims.map((claim) => claim.own),
        worker,
      ],
    ),
  );
  return new Map(result.rows.map((row) => [row.id, row]));
}

function toAnswer(row: ClaimRow, owner: string): ClaimAnswer {
  switch (row.decision) {
    case 'claimed':
      return {
        decision: 'claimed',
        job: {
          id: row.id,
          owner,
          tenant: row.tenant,
          name: row.name,
          key: row.idempotency_key,
          fence: row.fence,
          input: row.input,
          options: parseOptions(row.options),
          crashCount: row.crash_count,
          errorCount: row.error_count,
          interruptionCount: row.interruption_count,
          lastOutcome: row.last_outcome,
          checkpoint: row.checkpoint,
          checkpointSeq: row.checkpoint_seq,
          deadlineLeftMs: row.deadline_left_ms,
          nextSeq: row.next_seq ?? 0,
        },
      };
    case 'completed':
      return { decision: 'completed', result: row.old_result };
    case 'failed':
      return { decision: 'failed', error: JSON.parse(row.old_error ?? 'null') as StoredFailure };
    case 'held':
      return { decision: 'held', leaseLeftMs: row.lease_left_ms ?? 0 };
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

/** Most jobs of a fleet have one of a few texts of options. */
const MAX_PARSED = 1_000;
const parsed = new Map<string, RowOptions>();

function parseOptions(text: string): RowOptions {
  let options = parsed.get(text);
  if (options === undefined) {
    options = Object.freeze(JSON.parse(text) as RowOptions);
    if (parsed.size >= MAX_PARSED) parsed.clear();
    parsed.set(text, options);
  }
  return options;
}

async function findExisting(db: Kysely<Database>, ids: readonly string[]): Promise<Set<string>> {
  const rows = await db.selectFrom('jobs').select('id').where(sql<boolean>`id = any(${ids}::uuid[])`).execute();
  return new Set(rows.map((row) => row.id));
}

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
  /** How long the outcome is kept for the key, ms. */
  resultTtlMs: number;
  /** For `pending`: not before this many ms. */
  delayMs: number;
  delivery: number;
  /** Events of the same transaction; absent where the stream has none and gets none. */
  run: Run | undefined;
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
  const silent = settlements.filter(({ status, run }) => status === 'completed' && run === undefined);
  if (silent.length === 0) return settleAny(db, settlements);
  const accepted = await settleSilent(db, silent);
  if (silent.length === settlements.length) return accepted;
  return accepted.union(
    await settleAny(
      db,
      settlements.filter((settlement) => !silent.includes(settlement)),
    ),
  );
}

/** Completes runs that have emitted nothing: their streams have no head, and get none. */
async function settleSilent(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const statement = db.isTransaction ? unnamed : named;
  const result = await db.executeQuery(
    statement<{ id: string; fence: number }>(
      'settle_silent',
      `with want as (
        select id::uuid, fence, result_ttl_ms, result
        from unnest($1::text[], $2::bigint[], $3::float8[], $4::text[]) as w (id, fence, result_ttl_ms, result)
        where fence >= 1 and fence < 2147483648 and result_ttl_ms >= 0
      ), completed as (
        update oncefleet.jobs j set
          status = 'completed',
          result = w.result::json,
          lease_owner = null,
          lease_expires_at = null,
          last_outcome = 'completed',
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
      ],
    ),
  );
  return acceptedOf(settlements, result.rows);
}

async function settleAny(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const statement = db.isTransaction ? unnamed : named;
  const result = await db.executeQuery(
    statement<{ id: string; fence: number }>(
      'settle',
      `with want as (
        select *, first_seq is not null as has_run
        from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::int[], $8::bigint[], $9::bigint[], $10::bool[], $11::text[],
            $12::text[], $13::text[], $14::text[])
          as w (id, fence, status, outcome, result_ttl_ms, delay_ms, delivery, first_seq, last_seq, terminal, progress, result, error, events)
        where fence >= 1 and result_ttl_ms >= 0 and delay_ms >= 0
      ), held as (
        select w.*, j.worker, j.claimed_at from oncefleet.jobs j join want w on w.id = j.id
        where j.fence = w.fence and j.status = 'running'
        for update of j
      ), advanced as (
        update oncefleet.stream_heads h set next_seq = w.last_seq + 1, progress = coalesce(w.progress::json, h.progress), state = case when w.terminal then 'closed' else 'open' end,
          fold_due = case when w.terminal and w.first_seq >= ${FOLD_FROM_SEQ} then true end
        from held w
        where w.has_run and h.stream_id = w.id and h.fence = w.fence and h.next_seq = w.first_seq and h.state = 'open'
        returning h.stream_id
      ), opened as (
        insert into oncefleet.stream_heads (stream_id, fence, next_seq, progress, state)
        select id, fence, last_seq + 1, progress::json, case when terminal then 'closed' else 'open' end
        from held where has_run and first_seq = 0
        on conflict do nothing
        returning stream_id
      ), accepted as (
        select w.* from held w
        where not w.has_run or exists (select from advanced a where a.stream_id = w.id) or exists (select from opened o where o.stream_id = w.id)
      ), appended as (
        insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
        select id, first_seq, last_seq, fence, events::json from accepted where has_run
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
          last_outcome = w.outcome,
          claimed_at = case when w.terminal then j.claimed_at end,
          run_at = case when w.terminal then j.run_at else clock_timestamp() + w.delay_ms * interval '1 ms' end,
          failed_at_delivery = case when w.status = 'failed' then w.delivery end,
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
      select id, fence from settled`,
      [
        settlements.map((s) => s.id),
        settlements.map((s) => s.fence),
        settlements.map((s) => s.status),
        settlements.map((s) => s.outcome),
        settlements.map((s) => s.resultTtlMs),
        settlements.map((s) => s.delayMs),
        settlements.map((s) => s.delivery),
        settlements.map((s) => s.run?.firstSeq ?? null),
        settlements.map((s) => (s.run === undefined ? null : s.run.firstSeq + s.run.events.length - 1)),
        settlements.map((s) => s.status !== 'pending'),
        textArray(settlements.map((s) => (s.run === undefined ? null : lastProgress(s.run.events)))),
        textArray(settlements.map((s) => s.result)),
        textArray(settlements.map((s) => s.error)),
        textArray(settlements.map((s) => (s.run === undefined ? null : segmentText(s.run.events)))),
      ],
    ),
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
 * Of settlements that were refused, those that an earlier try committed: its answer was
 * lost. Only the holder of a fence settles at that fence, so the row tells.
 */
export async function findSettled(db: Kysely<Database>, settlements: readonly Settlement[]): Promise<Set<Settlement>> {
  const rows = await db
    .selectFrom('jobs')
    .select(['id', 'fence', 'status', 'last_outcome'])
    .where(sql<boolean>`id = any(${settlements.map((s) => s.id)}::uuid[])`)
    .execute();
  const byId = new Map(rows.map((row) => [row.id, row]));
  return new Set(
    settlements.filter((s) => {
      const row = byId.get(s.id);
      return row !== undefined && row.fence === s.fence && row.status === s.status && row.last_outcome === s.outcome;
    }),
  );
}

/** Saves a checkpoint at a fence. @returns false when the fence is lost */
export async function saveCheckpoint(
  db: Kysely<Database>,
  checkpoint: { id: string; fence: number; value: string; seq: number },
): Promise<boolean> {
  const result = await db
    .updateTable('jobs')
    .set({ checkpoint: sql`${checkpoint.value}::json`, checkpoint_seq: checkpoint.seq })
    .where('id', '=', checkpoint.id)
    .where('fence', '=', checkpoint.fence)
    .where('status', '=', 'running')
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/**
 * Holds a job's fence until the transaction ends: no takeover commits before it.
 *
 * @param idleLimitMs Postgres ends the transaction when its owner is silent this long (a
 *   frozen process must not hold the row for ever)
 * @returns false when the fence is lost
 */
export async function lockFence(
  trx: Transaction<Database>,
  id: string,
  fence: number,
  idleLimitMs: number,
): Promise<boolean> {
  const rows = await sql<{ id: string }>`
    select id, set_config('idle_in_transaction_session_timeout', ${String(idleLimitMs)}, true)
    from oncefleet.jobs where id = ${id} and fence = ${fence} and status = 'running'
    for key share`.execute(trx);
  return rows.rows.length > 0;
}

/**
 * Takes a job over from its own run: the fence goes up, and the stream's head with it. What
 * the run commits from now on has another fence than what it sent ahead of its commit.
 * Idempotent: the owner of the next fence, if it is the same, has raised it before.
 *
 * @returns the new fence; undefined when the old one is lost
 */
export async function raiseFence(
  db: Kysely<Database>,
  { id, owner, fence }: Pick<ClaimedJob, 'id' | 'owner' | 'fence'>,
): Promise<number | undefined> {
  const result = await sql<{ fence: number }>`
    with held as (
      select id from oncefleet.jobs
      where id = ${id} and lease_owner = ${owner} and fence in (${fence}, ${fence}::bigint + 1) and status = 'running'
      for update
    ), raised as (
      update oncefleet.jobs j set fence = ${fence}::bigint + 1 from held where j.id = held.id
      returning j.id, j.fence
    )
    insert into oncefleet.stream_heads (stream_id, fence, next_seq) select id, fence, 0 from raised
    on conflict (stream_id) do update set fence = excluded.fence
    returning fence`.execute(db);
  return result.rows[0]?.fence;
}

/** Postgres ends a transaction of ours when its process is silent for so long, ms: a row stays locked no longer. */
const SILENT_OWNER_MS = 10_000;

async function limitSilence(trx: Transaction<Database>, limitMs: number): Promise<void> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(limitMs)}, true)`.execute(trx);
}

export interface Ended {
  /** What to publish. */
  run: Run;
  status: TerminalStatus;
  name: string;
  tenant: string;
  queue: string;
  crashCount: number;
  /** Noted with the end of a poisoned job: its hook is to be called now. */
  alert: Omit<PoisonAlert, 'calls'> | undefined;
  error: StoredFailure | undefined;
}

/**
 * Ends a job that nobody runs: pending, or its lease expired. The fence goes up and the
 * stream's head with it, so the last owner, should it live, writes nothing any more.
 *
 * @param options.delivery BullMQ's attemptsMade of the delivery that met the job, if one did
 * @param decide gives the ending for the locked row, or undefined to leave it alone
 * @returns undefined when somebody runs it, it has ended, or its row is locked
 */
export async function endAbandoned(
  db: Kysely<Database>,
  id: string,
  options: { resultTtlMs: number; delivery: number | undefined },
  decide: (row: {
    crashCount: number;
    cancelRequested: boolean;
    deadlinePassed: boolean;
  }) =>
    | { status: 'failed' | 'cancelled'; error: StoredFailure | undefined; terminalJson: string; poisoned: boolean }
    | undefined,
): Promise<Ended | undefined> {
  return db.transaction().execute(async (trx) => {
    await limitSilence(trx, SILENT_OWNER_MS);
    const row = await trx
      .selectFrom('jobs')
      .select([
        'tenant',
        'name',
        'queue',
        'status',
        'fence',
        'worker',
        'claimed_at',
        'crash_count',
        'cancel_requested_at',
        sql<boolean>`coalesce(lease_expires_at > clock_timestamp(), false)`.as('held'),
        sql<boolean>`coalesce(deadline_at <= clock_timestamp(), false)`.as('deadline_passed'),
      ])
      .where('id', '=', id)
      .where('status', 'in', ['pending', 'running'])
      .forUpdate()
      .skipLocked()
      .executeTakeFirst();
    if (row === undefined || row.held) return undefined;
    const crashCount = row.crash_count + (row.status === 'running' ? 1 : 0);
    const ending = decide({
      crashCount,
      cancelRequested: row.cancel_requested_at !== null,
      deadlinePassed: row.deadline_passed,
    });
    if (ending === undefined) return undefined;
    const fence = row.fence + 1;
    const head = await trx
      .insertInto('stream_heads')
      .values({ stream_id: id, fence, next_seq: 1, state: 'closed' })
      .onConflict((oc) =>
        oc.column('stream_id').doUpdateSet({
          fence,
          next_seq: sql`stream_heads.next_seq + 1`,
          state: 'closed',
          fold_due: sql`case when stream_heads.next_seq >= ${FOLD_FROM_SEQ} then true end`,
        }),
      )
      .returning('next_seq')
      .executeTakeFirstOrThrow();
    const seq = head.next_seq - 1;
    await trx
      .insertInto('journal_segments')
      .values({ stream_id: id, first_seq: seq, last_seq: seq, fence, events: segmentText([ending.terminalJson]) })
      .execute();
    const error = ending.error === undefined ? null : JSON.stringify(ending.error);
    await keepAttempt(trx, { id, ...row, outcome: ending.poisoned ? 'poisoned' : 'crash', error });
    await trx
      .updateTable('jobs')
      .set({
        status: ending.status,
        fence,
        error,
        crash_count: crashCount,
        lease_owner: null,
        lease_expires_at: null,
        claimed_at: null,
        last_outcome: ending.poisoned ? 'poisoned' : ending.status,
        failed_at_delivery: ending.status === 'failed' ? (options.delivery ?? null) : null,
        finished_at: sql`clock_timestamp()`,
        expires_at: sql`clock_timestamp() + ${options.resultTtlMs}::float8 * interval '1 ms'`,
      })
      .where('id', '=', id)
      .execute();
    await trx.deleteFrom('unfinished_jobs').where('job_id', '=', id).execute();
    const { tenant, name, queue } = row;
    const alert = ending.poisoned ? { jobId: id, fence, tenant, name, queue, crashes: crashCount } : undefined;
    if (alert !== undefined) await insertPoisonAlert(trx, alert);
    return {
      run: { streamId: id, fence, firstSeq: seq, events: [ending.terminalJson] },
      status: ending.status,
      name,
      tenant,
      queue,
      crashCount,
      alert,
      error: ending.error,
    };
  });
}

/** Gives the attempt in a job's row a row of its own, for the job's is about to tell of something else. */
async function keepAttempt(
  trx: Transaction<Database>,
  job: {
    id: string;
    fence: number;
    worker: string | null;
    claimed_at: Date | null;
    finished_at?: Date | null;
    outcome: string;
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

/** Asks for a cancel. @returns the status it met, `live` while somebody runs it; undefined: no such job */
export async function requestCancel(
  db: Kysely<Database>,
  tenant: string,
  id: string,
): Promise<{ status: Status; live: boolean } | undefined> {
  const rows = await sql<{ status: Status; live: boolean }>`
    with asked as (
      update oncefleet.jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
      where id = ${id} and tenant = ${tenant} and status in ('pending', 'running')
      returning id, status, coalesce(lease_expires_at > clock_timestamp(), false) as live
    ), overdue as (
      update oncefleet.unfinished_jobs u set end_by = clock_timestamp() from asked a where u.job_id = a.id
    )
    select status, live from asked
    union all
    select status, false from oncefleet.jobs
    where id = ${id} and tenant = ${tenant} and not exists (select from asked)`.execute(db);
  return rows.rows[0];
}

/**
 * Sends a failed job round again: counters at zero, fence going on, stream open again.
 *
 * @param terminalJson the failure as the stream says it, for a job whose terminal event is in its row
 * @returns undefined when the job is not failed (or not there)
 */
export async function redriveJob(
  db: Kysely<Database>,
  id: string,
  terminalJson: (error: string | null) => string,
): Promise<{ queue: string } | undefined> {
  return db.transaction().execute(async (trx) => {
    await limitSilence(trx, SILENT_OWNER_MS);
    const row = await trx
      .selectFrom('jobs')
      .select(['queue', 'fence', 'error', 'worker', 'claimed_at', 'finished_at', 'last_outcome'])
      .where('id', '=', id)
      .where('status', '=', 'failed')
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) return undefined;
    // Readers have seen the failure at its seq, so it must stay there.
    const opened = await trx
      .insertInto('stream_heads')
      .values({ stream_id: id, fence: row.fence, next_seq: 1, state: 'open' })
      .onConflict((oc) => oc.column('stream_id').doNothing())
      .returning('stream_id')
      .executeTakeFirst();
    if (opened === undefined) {
      await trx.updateTable('stream_heads').set({ state: 'open' }).where('stream_id', '=', id).execute();
    } else {
      await trx
        .insertInto('journal_segments')
        .values({
          stream_id: id,
          first_seq: 0,
          last_seq: 0,
          fence: row.fence,
          events: segmentText([terminalJson(row.error)]),
        })
        .execute();
    }
    await keepAttempt(trx, { id, ...row, outcome: row.last_outcome ?? 'error' });
    await trx
      .updateTable('jobs')
      .set({
        status: 'pending',
        error: null,
        claimed_at: null,
        crash_count: 0,
        error_count: 0,
        deferral_count: 0,
        interruption_count: 0,
        last_outcome: 'redrive',
        failed_at_delivery: null,
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
    return { queue: row.queue };
  });
}

/** One job of a tenant, with its columns as the table has them. */
export async function findJob(db: Kysely<Database>, tenant: string, id: string) {
  return db
    .selectFrom('jobs as j')
    .leftJoin('stream_heads as h', 'h.stream_id', 'j.id')
    .selectAll('j')
    .select('h.progress')
    .where('j.id', '=', id)
    .where('j.tenant', '=', tenant)
    .executeTakeFirst();
}

export async function findAttempts(db: Kysely<Database>, id: string) {
  return db.selectFrom('job_attempts').selectAll().where('job_id', '=', id).orderBy('fence').execute();
}

/** A tenant's jobs, newest first; `before` is the id the last page ended with. */
export async function findJobs(
  db: Kysely<Database>,
  filter: {
    tenant: string;
    key?: string | undefined;
    name?: string | undefined;
    status?: Status | undefined;
    before?: string | undefined;
    limit: number;
  },
) {
  let query = db.selectFrom('jobs').selectAll().where('tenant', '=', filter.tenant);
  if (filter.key !== undefined) query = query.where('idempotency_key', '=', filter.key);
  if (filter.name !== undefined) query = query.where('name', '=', filter.name);
  if (filter.status !== undefined) query = query.where('status', '=', filter.status);
  if (filter.before !== undefined) query = query.where('id', '<', filter.before);
  return query.orderBy('id', 'desc').limit(filter.limit).execute();
}

export interface FailedFilter {
  tenant: string;
  name?: string | undefined;
  /** Error code of the failure. */
  code?: string | undefined;
  /** Failed no longer ago than this, ms. */
  withinMs?: number | undefined;
}

/** Ids of failed jobs, longest failed first. */
export async function findFailedJobs(db: Kysely<Database>, filter: FailedFilter, limit: number): Promise<string[]> {
  let query = db.selectFrom('jobs').select('id').where('tenant', '=', filter.tenant).where('status', '=', 'failed');
  if (filter.name !== undefined) query = query.where('name', '=', filter.name);
  // As text: a message with \u0000 in it cannot be taken apart by json operators.
  if (filter.code !== undefined)
    query = query.where(sql<boolean>`starts_with(error::text, ${`{"code":${JSON.stringify(filter.code)}`})`);
  if (filter.withinMs !== undefined)
    query = query.where(
      'finished_at',
      '>=',
      sql<Date>`clock_timestamp() - ${filter.withinMs}::float8 * interval '1 ms'`,
    );
  const rows = await query.orderBy('finished_at').limit(limit).execute();
  return rows.map((row) => row.id);
}

export interface Outcome {
  id: string;
  status: Status;
  result: string | null;
  error: string | null;
}

/** Of several jobs, those that have ended, with what they ended in. */
export async function findOutcomes(db: Kysely<Database>, ids: readonly string[]): Promise<Outcome[]> {
  return db
    .selectFrom('jobs')
    .select(['id', 'status', 'result', 'error'])
    .where(sql<boolean>`id = any(${ids}::uuid[])`)
    .where('finished_at', 'is not', null)
    .execute();
}

export interface DispatchRow {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  key: string | null;
  options: RowOptions;
  /** Until it may run, ms; 0 or less: now. */
  delayMs: number;
  /** Carried by BullMQ for jobs that may run while Postgres is away. */
  input?: unknown;
}

interface DispatchColumns {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  idempotency_key: string | null;
  options: string;
}

function toDispatchRow(row: DispatchColumns & { delay_ms?: number }): DispatchRow {
  const { id, tenant, name, queue, idempotency_key: key, options, delay_ms: delayMs = 0 } = row;
  return { id, tenant, name, queue, key, options: JSON.parse(options) as RowOptions, delayMs };
}

/** A place in the order of unfinished jobs; the time is text, for Postgres's microseconds. */
export interface UnfinishedCursor {
  runAt: string;
  id: string;
}

interface UnfinishedPage {
  /** Where the page before ended. */
  after?: UnfinishedCursor | undefined;
  limit: number;
  /** Only those that have been due for so long. */
  graceMs?: number;
  /** Only those that became due in this time. */
  withinMs?: number;
}

/**
 * Unfinished jobs in the order they become due.
 *
 * By `statement_timestamp()`: `clock_timestamp()` is volatile, so the index would be read from
 * its start, and each entry compared.
 *
 * @returns `end`: where the page ends; undefined when it is the last
 */
export async function findUnfinishedIds(
  db: Kysely<Database>,
  page: UnfinishedPage,
): Promise<{ ids: string[]; end: UnfinishedCursor | undefined }> {
  const { after, limit, graceMs, withinMs } = page;
  const rows = await sql<{ id: string; at: string }>`
    select job_id as id, run_at::text as at from oncefleet.unfinished_jobs
    where ${graceMs === undefined ? sql`true` : sql`run_at < statement_timestamp() - ${graceMs}::float8 * interval '1 ms'`}
      and ${after === undefined ? sql`true` : sql`(run_at, job_id) > (${after.runAt}::timestamptz, ${after.id}::uuid)`}
      and ${withinMs === undefined ? sql`true` : sql`run_at > statement_timestamp() - ${withinMs}::float8 * interval '1 ms'`}
    order by run_at, job_id
    limit ${limit}`.execute(db);
  const last = rows.rows.length < limit ? undefined : rows.rows.at(-1);
  return { ids: rows.rows.map(({ id }) => id), end: last === undefined ? undefined : { runAt: last.at, id: last.id } };
}

/** Pending jobs in the order they become due; those not due yet have a delay left. */
export async function findPendingJobs(
  db: Kysely<Database>,
  page: UnfinishedPage,
): Promise<{ jobs: DispatchRow[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, page);
  if (ids.length === 0) return { jobs: [], end };
  const rows = await sql<DispatchColumns & { delay_ms: number }>`
    select id, tenant, name, queue, idempotency_key, options,
      extract(epoch from run_at - clock_timestamp())::float8 * 1000 as delay_ms
    from oncefleet.jobs
    where id = any(${ids}::uuid[]) and status = 'pending'
    order by run_at, id`.execute(db);
  return { jobs: rows.rows.map(toDispatchRow), end };
}

/** Of several jobs, those that still wait to run: pending, or running with an expired lease. */
export async function findWaiting(db: Kysely<Database>, ids: readonly string[]): Promise<Set<string>> {
  const rows = await sql<{ id: string }>`
    select id from oncefleet.jobs
    where id = any(${ids}::uuid[]) and (status = 'pending' or status = 'running' and lease_expires_at < clock_timestamp())`.execute(
    db,
  );
  return new Set(rows.rows.map((row) => row.id));
}

export interface AbandonedJob extends DispatchRow {
  crashCount: number;
  /** Cancelled, or past its deadline. */
  mustEnd: boolean;
}

interface AbandonedColumns extends DispatchColumns {
  crash_count: number;
  must_end: boolean;
}

const ABANDONED_COLUMNS = sql.raw(`j.id, j.tenant, j.name, j.queue, j.idempotency_key, j.options,
  j.crash_count + (j.status = 'running')::int as crash_count,
  j.cancel_requested_at is not null or coalesce(j.deadline_at <= clock_timestamp(), false) as must_end`);

function toAbandonedJob(row: AbandonedColumns): AbandonedJob {
  return { ...toDispatchRow(row), crashCount: row.crash_count, mustEnd: row.must_end };
}

/**
 * Of a page of due jobs: those that run and whose lease has expired, those that wait although they
 * must end, and the ids of those that have finished or are gone and should not be on the list.
 *
 * A page, not an index: an index on leases would make every claim and outcome write to each index
 * of the table.
 */
export async function findAbandonedJobs(
  db: Kysely<Database>,
  page: { after?: UnfinishedCursor | undefined; limit: number },
): Promise<{ jobs: AbandonedJob[]; finished: string[]; end: UnfinishedCursor | undefined }> {
  const { ids, end } = await findUnfinishedIds(db, { ...page, graceMs: 0 });
  if (ids.length === 0) return { jobs: [], finished: [], end };
  // `offset 0` keeps the lookup as it is written, row by row: a join would read all jobs for a page.
  const { rows } = await sql<AbandonedColumns & { listed: string; finished: boolean }>`
    select l.id as listed, j.id is null or j.finished_at is not null as finished, ${ABANDONED_COLUMNS}
    from unnest(${ids}::uuid[]) as l (id)
    left join lateral (select * from oncefleet.jobs where id = l.id offset 0) j on true
    where j.id is null or j.finished_at is not null
      or case when j.status = 'running' then j.lease_expires_at < clock_timestamp()
        else j.cancel_requested_at is not null or coalesce(j.deadline_at <= clock_timestamp(), false) end`.execute(db);
  const finished = rows.filter((row) => row.finished).map((row) => row.listed);
  return { jobs: rows.filter((row) => !row.finished).map(toAbandonedJob), finished, end };
}

/** Waiting jobs that were cancelled or are past their deadline, due or not. */
export async function findOverdueJobs(db: Kysely<Database>, limit: number): Promise<AbandonedJob[]> {
  const { rows } = await sql<AbandonedColumns>`
    select ${ABANDONED_COLUMNS} from oncefleet.unfinished_jobs u join oncefleet.jobs j on j.id = u.job_id
    where u.end_by <= statement_timestamp() and j.status = 'pending'
    order by u.end_by limit ${limit}`.execute(db);
  return rows.map(toAbandonedJob).filter((job) => job.mustEnd);
}

/** Takes jobs that somebody ended by hand, and ids without a row, off the list of the unfinished. */
export async function dropFinished(db: Kysely<Database>, ids: readonly string[]): Promise<void> {
  // The lock keeps out who sends a failed one round again.
  await sql`
    with finished as (
      select id from oncefleet.jobs where id = any(${ids}::uuid[]) and finished_at is not null for key share skip locked
    )
    delete from oncefleet.unfinished_jobs
    where job_id = any(${ids}::uuid[])
      and (job_id in (select id from finished) or not exists (select from oncefleet.jobs where id = job_id))`.execute(
    db,
  );
}
