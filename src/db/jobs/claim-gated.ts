/**
 * Claims of jobs for which a limit may hold. They take turns with all others under the same keys; a job whose limit
 * is met is not claimed, and waits in `limit_waits` until a place is kept for it.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import { againInMs, inTurn, KEPT_FOR_MS, type KeyState, lockKeys, readKeys } from '../limits.ts';
import type { Database } from '../schema.ts';
import type { ClaimRow, KeyWake } from './claim-answer.ts';
import { readRowOptions } from './row-options.ts';
import { byId, leaseHeld, QUEUE_KEY, TENANT_KEY, tenantLimited } from './states.ts';

/**
 * After this a job that waits comes for a place by itself, if everything that should wake it has failed. BullMQ keeps
 * it as delayed until then; sooner it would be polling.
 */
const BACKSTOP_MS = 3_600_000;

interface GatedJob {
  id: string;
  tenant: string;
  queue: string;
  name: string;
  fence: number;
  limit_keys: string | null;
  tenant_limited: boolean;
  priority: number;
  /** It was woken, and the place under this key is kept for it. */
  kept_key: string | null;
  /** It has lost its worker: it goes before those that have not started yet. */
  crashed: boolean;
}

/** @param claimGranted the full claim, for those that no limit holds back */
export async function claimGated<C extends { id: string }>(
  db: Kysely<Database>,
  claims: readonly C[],
  rows: ReadonlyMap<string, ClaimRow>,
  claimGranted: (trx: Transaction<Database>, claims: readonly C[]) => Promise<Map<string, ClaimRow>>,
): Promise<Map<string, ClaimRow>> {
  return inTurn(db, async (trx) => {
    const jobs = await findGated(
      trx,
      claims.map(({ id }) => id),
    );
    const keysOf = new Map(jobs.map((job) => [job.id, keysOfJob(job)]));
    const keys = [...new Set(keysOf.values().toArray().flat())].sort();
    await lockKeys(trx, keys);
    const states = await readKeys(trx, [...keys, ...new Set(jobs.map(({ queue }) => QUEUE_KEY + queue))]);
    const places = new Places(states);
    const limited: (GatedJob & { key: string })[] = [];
    const granted = new Set<string>();
    for (const job of jobs) {
      const key = places.take(job, keysOf.get(job.id) ?? []);
      if (key === undefined) granted.add(job.id);
      else limited.push({ ...job, key });
    }
    const answers =
      granted.size === 0
        ? new Map<string, ClaimRow>()
        : await claimGranted(
            trx,
            claims.filter(({ id }) => granted.has(id)),
          );
    const claimed = [...answers.values()].filter(({ decision }) => decision === 'claimed');
    for (const row of claimed) row.keys = keysOf.get(row.id) ?? [];
    await keepPlaces(trx, claimed);
    const parked = await park(trx, limited);
    for (const { id, key, kept_key: kept, tenant, name, fence } of limited) {
      const row = rows.get(id) as ClaimRow;
      if (parked.has(id))
        answers.set(id, {
          ...row,
          decision: 'limited',
          tenant,
          name,
          fence,
          keys: [key],
          due_in_ms: BACKSTOP_MS,
          again: places.again(key, kept),
        });
    }
    return answers;
  });
}

function keysOfJob({ tenant, limit_keys: own, tenant_limited: limited }: GatedJob): string[] {
  return [...(own === null ? [] : (JSON.parse(own) as string[])), ...(limited ? [TENANT_KEY + tenant] : [])];
}

/** The free places of several keys, as they are given to one job after the other. */
class Places {
  readonly #states: ReadonlyMap<string, KeyState>;

  constructor(states: ReadonlyMap<string, KeyState>) {
    this.#states = states;
  }

  /** Takes a place under each key. @returns the first key that has none; then none is taken */
  take(job: GatedJob, keys: readonly string[]): string | undefined {
    const queue = this.#states.get(QUEUE_KEY + job.queue);
    if (queue?.free === 0) return queue.key;
    const states = keys.flatMap((key) => this.#states.get(key) ?? []);
    const missing = states.find((state) => !hasPlace(state, job));
    if (missing !== undefined) return missing.key;
    for (const state of states) {
      state.free--;
      if (job.kept_key === state.key) state.kept--;
    }
    return undefined;
  }

  /** When to look for free places again, after a job has met the limit of `key`. @param kept the key that kept it a place in vain */
  again(key: string, kept: string | null): KeyWake[] {
    const state = this.#states.get(key);
    const ms = state === undefined ? undefined : againInMs(state);
    return [
      ...(ms === undefined ? [] : [{ key, againInMs: ms }]),
      ...(kept === null || kept === key ? [] : [{ key: kept, againInMs: 0 }]),
    ];
  }
}

/** Whoever comes without a place kept for it queues behind those that wait, or an early one might wait for ever. */
function hasPlace({ key, free, kept, waiting }: KeyState, job: GatedJob): boolean {
  if (job.kept_key === key || job.crashed) return free > 0;
  return free > kept && (!waiting || free === Number.POSITIVE_INFINITY);
}

/** Those that a place is kept for first, then by priority, then in the order of their enqueues. */
async function findGated(trx: Transaction<Database>, ids: readonly string[]): Promise<GatedJob[]> {
  const { rows } = await sql<Omit<GatedJob, 'priority'> & { options: string }>`
    select j.id, j.tenant, j.queue, j.name, j.fence, j.limit_keys, ${sql.raw(tenantLimited('j'))} as tenant_limited, j.options,
      case when w.woken_at > clock_timestamp() - ${KEPT_FOR_MS}::float8 * interval '1 ms' then w.key end as kept_key,
      j.status = 'running' as crashed
    from oncefleet.jobs j left join oncefleet.limit_waits w on w.job_id = j.id
    where j.id = any(${ids}::uuid[])`.execute(trx);
  const jobs = rows.map(({ options, ...row }) => ({ ...row, priority: readRowOptions(options).priority }));
  const rank = ({ kept_key, crashed }: GatedJob) => (kept_key !== null || crashed ? 0 : 1);
  return jobs.sort((a, b) => rank(a) - rank(b) || a.priority - b.priority || byId(a, b));
}

async function keepPlaces(trx: Transaction<Database>, claimed: readonly ClaimRow[]): Promise<void> {
  if (claimed.length === 0) return;
  const places = claimed.flatMap((row) => (row.keys ?? []).map((key) => ({ key, id: row.id, fence: row.fence })));
  await sql`
    with waited as (delete from oncefleet.limit_waits where job_id = any(${claimed.map(({ id }) => id)}::uuid[]))
    insert into oncefleet.limit_places (key, job_id, fence, started_at)
    select key, id, fence, clock_timestamp()
    from unnest(${places.map(({ key }) => key)}::text[], ${places.map(({ id }) => id)}::uuid[], ${places.map(({ fence }) => fence)}::bigint[])
      as p (key, id, fence)
    on conflict do nothing`.execute(trx);
}

/** Puts jobs off until they are woken. @returns their ids; one that has changed meanwhile is left */
async function park(
  trx: Transaction<Database>,
  jobs: readonly { id: string; key: string; priority: number }[],
): Promise<Set<string>> {
  if (jobs.length === 0) return new Set();
  const { rows } = await sql<{ id: string }>`
    with want as (
      select * from unnest(${jobs.map(({ id }) => id)}::uuid[], ${jobs.map(({ key }) => key)}::text[], ${jobs.map(({ priority }) => priority)}::int[])
        as w (id, key, priority)
    ), open as (
      select j.id, w.key, w.priority from oncefleet.jobs j join want w on w.id = j.id
      where j.status in ('pending', 'running') and not ${sql.raw(leaseHeld('j'))}
      for update of j skip locked
    ), parked as (
      update oncefleet.jobs j set limited_count = j.limited_count + 1,
        run_at = case when j.status = 'pending' then clock_timestamp() + ${BACKSTOP_MS}::float8 * interval '1 ms' else j.run_at end
      from open o where j.id = o.id
      returning j.id, j.run_at
    ), listed as (
      update oncefleet.unfinished_jobs u set run_at = p.run_at from parked p where u.job_id = p.id
    )
    insert into oncefleet.limit_waits as w (job_id, key, priority, since)
    select id, key, priority, clock_timestamp() from open
    on conflict (job_id) do update set key = excluded.key, woken_at = null
    returning job_id as id`.execute(trx);
  return new Set(rows.map(({ id }) => id));
}
