/**
 * Queries on the keys of limits: what is taken up, what waits, and what is woken.
 *
 * A place has no owner of its own: a row of `limit_places` is taken up as long as its job is running with a live
 * lease. So the end of a run, or of its lease, gives the place back without another write, and a killed holder
 * keeps it for no longer than its lease.
 *
 * Claims and wakes of one key take turns by locking its row, in a statement of their own: the next statement of the
 * transaction then sees what the one before has committed (at READ COMMITTED; a single statement would not).
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import { IDLE_OWNER_MS, limitIdleTime } from './jobs/attempts.ts';
import { leaseHeld, msUntil, TENANT_KEY, unfinished } from './jobs/states.ts';
import { DISPATCH_COLUMNS, type DispatchColumns, type DispatchRow, toDispatchRow } from './jobs/unfinished.ts';
import type { Database } from './schema.ts';

/** How long a place is kept for a job that was woken. Its delivery takes milliseconds; a queue may be paused. */
export const KEPT_FOR_MS = 5_000;

/** Jobs of one key that one wake has delivered. */
const WAKE_LIMIT = 1_000;

/** Numbers of one limit. */
interface LimitNumbers {
  /** Jobs of one key that may run at once. */
  concurrency?: number | undefined;
  /** Jobs of one key that may start within a time. */
  rate?: { max: number; perMs: number } | undefined;
}

/** One key, as it is while its row is locked. */
export interface KeyState {
  key: string;
  /** Places that are free; Infinity where nothing limits them. */
  free: number;
  /** Places kept for jobs that were woken. */
  kept: number;
  /** Jobs wait that nobody has woken. */
  waiting: boolean;
  /** Until a place may come free by itself: a pause or a window ends, or a lease that nobody renews; undefined: not known. */
  freeInMs: number | undefined;
  /** Until the oldest start in the window of its rate leaves it; undefined: it has no rate. */
  windowMs: number | undefined;
}

interface KeyRow {
  key: string;
  paused_ms: number | null;
  concurrency: number | null;
  rate_max: number | null;
  live: number | null;
  lease_ms: number | null;
  started: number | null;
  window_ms: number | null;
  oldest_ms: number | null;
  waiting: boolean;
  kept: number;
}

/** In a transaction of its own; Postgres ends it, and so frees the keys, when its process is frozen. */
export function inTurn<T>(db: Kysely<Database>, work: (trx: Transaction<Database>) => Promise<T>): Promise<T> {
  return db
    .transaction()
    .setIsolationLevel('read committed')
    .execute(async (trx) => {
      await limitIdleTime(trx, IDLE_OWNER_MS);
      return work(trx);
    });
}

/** Waits for the turn of several keys, which are made where they are missing. Always in one order: no deadlock. */
export async function lockKeys(trx: Transaction<Database>, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  for (;;) {
    const { rows } = await sql<{ key: string }>`
      select key from oncefleet.limit_keys where key = any(${keys}::text[]) order by key for update`.execute(trx);
    if (rows.length === keys.length) return;
    // New ones, or one that was tidied away while its lock was waited for.
    await sql`
      insert into oncefleet.limit_keys (key) select key from unnest(${keys}::text[]) as k (key) order by key
      on conflict do nothing`.execute(trx);
  }
}

/** Several keys as they are; one without a row limits nothing. */
export async function readKeys(trx: Kysely<Database>, keys: readonly string[]): Promise<Map<string, KeyState>> {
  if (keys.length === 0) return new Map();
  const { rows } = await sql<KeyRow>`
    select k.key, ${sql.raw(msUntil('k.paused_until'))} as paused_ms, l.concurrency, l.rate_max,
      h.live, h.lease_ms, r.started, r.window_ms, r.oldest_ms,
      exists (select from oncefleet.limit_waits w where w.key = k.key and w.woken_at is null) as waiting,
      (select count(*)::int from oncefleet.limit_waits w
        where w.key = k.key and w.woken_at > clock_timestamp() - ${KEPT_FOR_MS}::float8 * interval '1 ms') as kept
    from oncefleet.limit_keys k
    left join lateral (
      select concurrency, rate_max, rate_per_ms from oncefleet.limits where name = split_part(k.key, '/', 1)
      union all
      select concurrency, rate_max, rate_per_ms from oncefleet.tenant_limits where k.key = ${TENANT_KEY} || tenant
    ) l on true
    left join lateral (
      select count(distinct p.job_id)::int as live, ${sql.raw(msUntil('min(j.lease_expires_at)'))} as lease_ms
      from oncefleet.limit_places p join oncefleet.jobs j on j.id = p.job_id
      where p.key = k.key and ${sql.raw(leaseHeld('j'))}
    ) h on l.concurrency is not null
    left join lateral (
      select count(*)::int as started, (array_agg(
          extract(epoch from started_at - clock_timestamp())::float8 * 1000 + l.rate_per_ms order by started_at desc
        ))[l.rate_max] as window_ms,
        coalesce(extract(epoch from min(started_at) - clock_timestamp())::float8 * 1000, 0) + l.rate_per_ms as oldest_ms
      from oncefleet.limit_places p
      where p.key = k.key and p.started_at > clock_timestamp() - l.rate_per_ms * interval '1 ms'
    ) r on l.rate_max is not null
    where k.key = any(${keys}::text[])`.execute(trx);
  return new Map(rows.map((row) => [row.key, toKeyState(row)]));
}

function toKeyState(row: KeyRow): KeyState {
  const { key, paused_ms: pausedMs, concurrency, rate_max: rateMax, waiting, kept } = row;
  const paused = pausedMs !== null && pausedMs > 0;
  const places = concurrency === null ? Number.POSITIVE_INFINITY : concurrency - (row.live ?? 0);
  const starts = rateMax === null ? Number.POSITIVE_INFINITY : rateMax - (row.started ?? 0);
  const waits = [
    ...(paused ? [pausedMs] : []),
    ...(places <= 0 && row.lease_ms !== null ? [row.lease_ms] : []),
    ...(starts <= 0 && row.window_ms !== null ? [row.window_ms] : []),
  ];
  return {
    key,
    free: paused ? 0 : Math.max(0, Math.min(places, starts)),
    kept,
    waiting,
    freeInMs: waits.length === 0 ? undefined : Math.max(...waits),
    windowMs: row.oldest_ms ?? undefined,
  };
}

/** How soon the next of those is woken that nothing limits any more: a page at a time. */
const PAGE_AGAIN_MS = 200;

/** When a key under which jobs wait is to be looked at again; undefined: when a run of it ends. */
export function againInMs({ free, kept, freeInMs, windowMs }: KeyState): number | undefined {
  if (free === Number.POSITIVE_INFINITY) return PAGE_AGAIN_MS;
  // Those that were woken take their places in a moment, or have left them to others.
  if (kept > 0) return Math.min(KEPT_FOR_MS, windowMs ?? KEPT_FOR_MS, freeInMs ?? KEPT_FOR_MS);
  return free > 0 ? 0 : freeInMs;
}

/** What a wake has done for a key. */
interface WokenKey {
  key: string;
  /** Until it should be looked at again; undefined: nobody waits, or the end of a run wakes the next. */
  againInMs: number | undefined;
}

/**
 * Wakes as many jobs as there are free places that are kept for nobody: each is due now, and its place kept for it.
 *
 * @returns those that BullMQ is to deliver
 */
export async function wakeKeys(
  db: Kysely<Database>,
  given: readonly string[],
): Promise<{ jobs: DispatchRow[]; keys: WokenKey[] }> {
  const keys = [...new Set(given)].sort();
  if (keys.length === 0) return { jobs: [], keys: [] };
  return inTurn(db, async (trx) => {
    // A key that nobody knows has nobody who waits.
    await sql`select from oncefleet.limit_keys where key = any(${keys}::text[]) order by key for update`.execute(trx);
    const states = await readKeys(trx, keys);
    const free = [...states.values()].filter((state) => state.waiting || state.kept > 0);
    const counts = free.map((state) => Math.min(WAKE_LIMIT, Math.max(0, state.free - state.kept)));
    const woken = await sql<DispatchColumns & { key: string }>`
      with chosen as (
        select w.job_id from unnest(${free.map(({ key }) => key)}::text[], ${counts}::int[]) as k (key, free)
        cross join lateral (
          select job_id, priority, since, woken_at from oncefleet.limit_waits
          where key = k.key and woken_at is null order by priority, since limit k.free
        ) w
      ), woken as (
        update oncefleet.limit_waits w set woken_at = clock_timestamp() from chosen c where w.job_id = c.job_id
        returning w.job_id, w.key
      ), due as (
        update oncefleet.jobs j set run_at = clock_timestamp() from woken w where j.id = w.job_id and j.status = 'pending'
        returning j.id, j.run_at
      ), listed as (
        update oncefleet.unfinished_jobs u set run_at = due.run_at from due where u.job_id = due.id
      )
      select w.key, ${sql.raw(DISPATCH_COLUMNS.map((column) => `j.${column}`).join(', '))}
      from woken w join oncefleet.jobs j on j.id = w.job_id where ${sql.raw(unfinished('j'))}`.execute(trx);
    return {
      jobs: woken.rows.map(toDispatchRow),
      keys: free.map((state, i) => ({
        key: state.key,
        againInMs: againInMs({ ...state, kept: state.kept + (counts[i] as number) }),
      })),
    };
  });
}

/** Keys under which jobs wait, in their order. @param after the last of the page before */
export async function findWaitingKeys(
  db: Kysely<Database>,
  after: string | undefined,
  limit: number,
): Promise<string[]> {
  // A loose scan: as many steps as there are keys, however many jobs wait under one.
  const { rows } = await sql<{ key: string }>`
    with recursive waiting as (
      (select min(key) as key, 1 as n from oncefleet.limit_waits where key > ${after ?? ''})
      union all
      select (select min(key) from oncefleet.limit_waits where key > w.key), n + 1 from waiting w
      where w.key is not null and n < ${limit}
    )
    select key from waiting where key is not null`.execute(db);
  return rows.map(({ key }) => key);
}

/**
 * Removes what nothing needs any more: waits of jobs that have ended, places that are taken up no more, keys that
 * nobody uses. Puts jobs that were woken and have not come for their place back behind the others.
 */
export async function tidyKeys(db: Kysely<Database>, keys: readonly string[]): Promise<void> {
  await inTurn(db, async (trx) => {
    await sql`select from oncefleet.limit_keys where key = any(${keys}::text[]) order by key for update`.execute(trx);
    await sql`
      delete from oncefleet.limit_waits w
      where key = any(${keys}::text[])
        and not exists (select from oncefleet.jobs j where j.id = w.job_id and ${sql.raw(unfinished('j'))})`.execute(
      trx,
    );
    await sql`
      update oncefleet.limit_waits set woken_at = null, since = clock_timestamp()
      where key = any(${keys}::text[]) and woken_at < clock_timestamp() - ${KEPT_FOR_MS}::float8 * interval '1 ms'`.execute(
      trx,
    );
    await sql`
      delete from oncefleet.limit_places p
      where key = any(${keys}::text[])
        and not exists (select from oncefleet.jobs j where j.id = p.job_id and ${sql.raw(leaseHeld('j'))})
        and started_at < clock_timestamp() - coalesce(
          (select rate_per_ms from oncefleet.limits where name = split_part(p.key, '/', 1)),
          (select rate_per_ms from oncefleet.tenant_limits where p.key = ${TENANT_KEY} || tenant), 0) * interval '1 ms'`.execute(
      trx,
    );
    await sql`
      delete from oncefleet.limit_keys k
      where key = any(${keys}::text[]) and coalesce(paused_until <= clock_timestamp(), true)
        and not exists (select from oncefleet.limit_places p where p.key = k.key)
        and not exists (select from oncefleet.limit_waits w where w.key = k.key)`.execute(trx);
  });
}

/** A page of all keys, in their order. */
export async function findKeys(db: Kysely<Database>, after: string | undefined, limit: number): Promise<string[]> {
  const rows = await db
    .selectFrom('limit_keys')
    .select('key')
    .where('key', '>', after ?? '')
    .orderBy('key')
    .limit(limit)
    .execute();
  return rows.map(({ key }) => key);
}

/** Notes the numbers of limits as a worker defines them. @returns the names of those that were other */
export async function defineLimits(
  db: Kysely<Database>,
  limits: readonly (LimitNumbers & { name: string })[],
): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    insert into oncefleet.limits as l (name, concurrency, rate_max, rate_per_ms)
    select * from unnest(${limits.map(({ name }) => name)}::text[], ${limits.map((limit) => limit.concurrency ?? null)}::int[],
      ${limits.map((limit) => limit.rate?.max ?? null)}::int[], ${limits.map((limit) => limit.rate?.perMs ?? null)}::float8[])
    on conflict (name) do update
      set concurrency = excluded.concurrency, rate_max = excluded.rate_max, rate_per_ms = excluded.rate_per_ms, updated_at = clock_timestamp()
      where (l.concurrency, l.rate_max, l.rate_per_ms) is distinct from (excluded.concurrency, excluded.rate_max, excluded.rate_per_ms)
    returning name`.execute(db);
  return rows.map(({ name }) => name);
}

/** No job of these keys starts for this time. A longer pause that is there stays. */
export async function pauseKeys(db: Kysely<Database>, keys: readonly string[], ms: number): Promise<void> {
  await sql`
    insert into oncefleet.limit_keys as k (key, paused_until)
    select key, clock_timestamp() + ${ms}::float8 * interval '1 ms' from unnest(${[...keys].sort()}::text[]) as p (key) order by key
    on conflict (key) do update set paused_until = greatest(k.paused_until, excluded.paused_until)`.execute(db);
}
