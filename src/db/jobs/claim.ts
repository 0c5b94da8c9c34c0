import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { named, ONE_ROW, textArray, unnamed } from '../statement.ts';
import { raiseHeads } from '../streams/heads.ts';
import { type ClaimAnswer, type ClaimRequest, type ClaimRow, heldJobOf, toAnswer } from './claim-answer.ts';
import { claimGated } from './claim-gated.ts';
import { abandonReason, byId, gated, leaseHeld, msUntil } from './states.ts';

export type { ClaimAnswer, ClaimedJob, ClaimRequest } from './claim-answer.ts';

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
  await claimLimited(db, others, rows, worker);
  const unseen = others.filter((claim) => !rows.has(claim.id)).map((claim) => claim.id);
  const unclaimed = unseen.length === 0 ? new Map<string, JobNames>() : await findNames(db, unseen);
  return requests.map((request) => {
    const row = rows.get(request.id);
    if (row === undefined) return withoutRow(request, unclaimed.get(request.id));
    // What speaks for the job calls it something else: this one is asked about by itself.
    if (!isSame(first.get(request.id)?.as, request.as)) return { decision: 'busy' };
    if (row.decision === 'claimed' && first.get(request.id) !== request)
      return { decision: 'held', leaseLeftMs: request.ttlMs, heldMs: 0, ...heldJobOf(row) };
    return toAnswer(row, request);
  });
}

/** Jobs for which a limit holds: their claims take turns with all others under the same keys. */
async function claimLimited(
  db: Kysely<Database>,
  claims: readonly CountedClaim[],
  rows: Map<string, ClaimRow>,
  worker: string,
): Promise<void> {
  const wanted = claims.filter(({ id }) => rows.get(id)?.decision === 'gated');
  if (wanted.length === 0) return;
  const answers = await claimGated(db, wanted, rows, (trx, granted) => claimAny(trx, granted, worker, true));
  for (const [id, row] of answers) rows.set(id, row);
}

type JobNames = NonNullable<ClaimRequest['as']>;

/** The answer to a claim that neither statement has an answer for. */
function withoutRow({ as }: ClaimRequest, row: JobNames | undefined): ClaimAnswer {
  if (row === undefined) return { decision: 'missing' };
  return { decision: as === undefined || isSame(as, row) ? 'busy' : 'refused' };
}

function isSame(a: JobNames | undefined, b: JobNames | undefined): boolean {
  return a?.tenant === b?.tenant && a?.name === b?.name;
}

/** SQL: the delivery calls the job what its row does. */
const NAMED_RIGHT = '(w.tenant is null or w.tenant = j.tenant and w.name = j.name)';

/** SQL: the job is due. What a timer or a rounded time is off by is not worth another delivery. */
const DUE = `(w.early or j.run_at <= clock_timestamp() + interval '5 ms')`;

type CountedClaim = ClaimRequest & { copies: number };

/** SQL: a limit may hold for the job. Not where BullMQ says when a job runs, nor for one that has run already. */
const GATED = `(not w.early and ${gated('j')})`;

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
        select id::uuid, owner, ttl_ms, copies, tenant, name, early
        from unnest($1::text[], $2::text[], $3::float8[], $4::int[], $6::text[], $7::text[], $8::bool[])
          with ordinality as w (id, owner, ttl_ms, copies, tenant, name, early, place)
        where ${ONE_ROW}
      ), fresh as (
        select w.* from want w join oncefleet.jobs j on j.id = w.id and ${DUE} and not ${GATED}
        where j.fence = 0 and j.status = 'pending' and ${abandonReason('j', '0')} is null and ${NAMED_RIGHT}
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
        ${msUntil('deadline_at')} as deadline_left_ms
      from claimed
      union all
      select j.id, j.status, null, null, null, null, j.result, null
      from want w join oncefleet.jobs j on j.id = w.id
      where j.status in ('completed', 'cancelled') and j.ended_at_delivery is null and ${NAMED_RIGHT}`,
      [
        textArray(claims.map((claim) => claim.id)),
        textArray(claims.map((claim) => claim.owner)),
        claims.map((claim) => claim.ttlMs),
        claims.map((claim) => claim.copies),
        worker,
        ...namesOf(claims),
        claims.map((claim) => claim.early ?? false),
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

/** Tenants and names, as parameters. */
function namesOf(claims: readonly ClaimRequest[]): [Buffer, Buffer] {
  return [textArray(claims.map(({ as }) => as?.tenant ?? null)), textArray(claims.map(({ as }) => as?.name ?? null))];
}

/** The whole table. A rule for all claims stands in `states.ts`, where the first claim has it too. */
const CLAIM_ANY = `with want as (
    select * from unnest($1::uuid[], $2::text[], $3::float8[], $4::int[], $5::int[], $6::int[], $7::bool[], $9::bool[], $10::text[], $11::text[], $12::bool[], $13::bool[])
      with ordinality as w (id, owner, ttl_ms, max_crashes, delivery, copies, own, restarted, tenant, name, early, granted, place)
    where ${ONE_ROW}
  ), ended as (
    -- Read without a lock, which would be a write, and a commit to wait for.
    select j.id, j.status, j.result from oncefleet.jobs j join want w on w.id = j.id
    where j.status in ('completed', 'cancelled') and j.ended_at_delivery is null and ${NAMED_RIGHT}
  ), found as (
    select j.id, j.tenant as row_tenant, j.name as row_name, j.status, j.fence, j.lease_owner, j.lease_expires_at, j.crash_count, j.ended_at_delivery,
      j.cancel_requested_at, j.deadline_at, j.result, j.error, j.worker, j.claimed_at, w.owner, w.ttl_ms, w.max_crashes, w.delivery, w.copies, w.own, w.restarted,
      j.run_at, ${DUE} as due, j.limit_keys, not w.granted and ${GATED} as gated
    from oncefleet.jobs j join want w on w.id = j.id
    where (j.status not in ('completed', 'cancelled') or j.ended_at_delivery is not null) and ${NAMED_RIGHT}
    for update of j skip locked
  ), decided as materialized (
    select found.*,
      status = 'running' and lease_owner = owner as again,
      case
        when status in ('failed', 'completed') and (delivery > ended_at_delivery or restarted and ended_at_delivery is not null) then 'retried'
        when status in ('failed', 'completed', 'cancelled') then status
        when status = 'running' and lease_owner = owner then 'claimed'
        when ${leaseHeld('found')} then 'held'
        else coalesce(${abandonReason('found', 'max_crashes')}, case when status = 'pending' and not due then 'early' when gated then 'gated' else 'claimed' end)
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
    update oncefleet.jobs j set ended_at_delivery = d.delivery
    from decided d
    where j.id = d.id and d.decision = 'failed'
      and (d.ended_at_delivery is null or d.own and d.delivery < d.ended_at_delivery)
  ), crashed as (
    insert into oncefleet.ended_attempts (job_id, fence, worker, started_at, outcome)
    select id, fence, worker, claimed_at, 'crash' from decided
    where status = 'running' and not again and decision = 'claimed'
  ), head as (
    ${raiseHeads('claimed where fence > 1')}
  )
  select d.id, d.decision, d.old_result, d.old_error,
    ${msUntil('d.lease_expires_at')} as lease_left_ms,
    -(${msUntil('d.claimed_at')}) as held_ms,
    ${msUntil('d.run_at')} as due_in_ms,
    coalesce(c.tenant, d.row_tenant) as tenant, coalesce(c.name, d.row_name) as name, c.idempotency_key, coalesce(c.fence, d.held_fence) as fence, c.input, c.options, c.crash_count, c.error_count, c.interruption_count,
    c.last_outcome, c.checkpoint, c.checkpoint_seq,
    ${msUntil('c.deadline_at')} as deadline_left_ms,
    h.next_seq, d.limit_keys
  from (
    select id, decision, result as old_result, error as old_error, lease_expires_at, claimed_at, row_tenant, row_name, fence as held_fence, run_at, limit_keys from decided
    union all
    select id, status, result, null, null, null, null, null, null, null, null from ended
  ) d
  left join claimed c on c.id = d.id left join head h on h.stream_id = d.id`;

async function claimAny(
  db: Kysely<Database>,
  claims: readonly CountedClaim[],
  worker: string,
  granted = false,
): Promise<Map<string, ClaimRow>> {
  // Within a transaction the loss of a name would spoil it.
  const statement = db.isTransaction ? unnamed : named;
  const result = await db.executeQuery(
    statement<ClaimRow>('claim', CLAIM_ANY, [
      claims.map((claim) => claim.id),
      claims.map((claim) => claim.owner),
      claims.map((claim) => claim.ttlMs),
      claims.map((claim) => claim.maxCrashes),
      claims.map((claim) => claim.delivery),
      claims.map((claim) => claim.copies),
      claims.map((claim) => claim.own),
      worker,
      claims.map((claim) => claim.restarted ?? false),
      ...namesOf(claims),
      claims.map((claim) => claim.early ?? false),
      claims.map(() => granted),
    ]),
  );
  return new Map(result.rows.map((row) => [row.id, row]));
}

async function findNames(db: Kysely<Database>, ids: readonly string[]): Promise<Map<string, JobNames>> {
  const rows = await db
    .selectFrom('jobs')
    .select(['id', 'tenant', 'name'])
    .where(sql<boolean>`id = any(${ids}::uuid[])`)
    .execute();
  return new Map(rows.map(({ id, ...names }) => [id, names]));
}
