/**
 * Retention: how long a tenant's finished jobs and their streams are kept, and their removal.
 *
 * Ids are in the order jobs were made, so each tenant's jobs are scanned once, in that order,
 * up to those that may be old enough by now; a mark says how far. A job that the scan meets too
 * early (still running, delayed, ended late) is noted for later. So a sweep costs what there is
 * to remove, and settling a job writes nothing for it.
 */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

/** `stream`: the events. `job`: everything, with them. */
export type RetentionKind = 'stream' | 'job';

/** Milliseconds after the end of a job, by kind; Infinity: never. */
export interface Retention {
  streamMs: number;
  jobMs: number;
}

export interface TenantPolicy {
  tenant: string;
  /** null: the fleet's default. */
  streamMs: number | null;
  jobMs: number | null;
}

/** What is noted for later is checked once a day at least, so that a shortened policy reaches it. */
const LOOK_AGAIN_MS = 86_400_000;

/** When a row that was locked is tried again. */
const LOCKED_AGAIN_MS = 60_000;

export async function findPolicies(db: Kysely<Database>): Promise<TenantPolicy[]> {
  const rows = await db.selectFrom('tenant_policies').selectAll().orderBy('tenant').execute();
  return rows.map((row) => ({ tenant: row.tenant, streamMs: row.stream_retention_ms, jobMs: row.job_retention_ms }));
}

/** Sets what is named and leaves the rest; a policy that says nothing any more is removed. */
export async function setPolicy(
  db: Kysely<Database>,
  tenant: string,
  change: { streamMs?: number | null; jobMs?: number | null },
): Promise<void> {
  const set = {
    ...(change.streamMs === undefined ? {} : { stream_retention_ms: change.streamMs }),
    ...(change.jobMs === undefined ? {} : { job_retention_ms: change.jobMs }),
  };
  await db.transaction().execute(async (trx) => {
    await trx
      .insertInto('tenant_policies')
      .values({ tenant, ...set })
      .onConflict((oc) => oc.column('tenant').doUpdateSet({ ...set, updated_at: sql<Date>`clock_timestamp()` }))
      .execute();
    await trx
      .deleteFrom('tenant_policies')
      .where('tenant', '=', tenant)
      .where('stream_retention_ms', 'is', null)
      .where('job_retention_ms', 'is', null)
      .execute();
  });
}

/** Tenants with jobs that the scan has not reached and that may be old enough. */
export async function findTenantsToSweep(
  db: Kysely<Database>,
  kind: RetentionKind,
  defaults: Retention,
): Promise<string[]> {
  // One index probe per tenant: Postgres has no skip scan for `distinct`.
  const rows = await sql<{ tenant: string }>`
    with recursive tenants (tenant) as (
      (select tenant from oncefleet.jobs order by tenant limit 1)
      union all
      select (select j.tenant from oncefleet.jobs j where j.tenant > t.tenant order by j.tenant limit 1)
      from tenants t where t.tenant is not null
    )
    select t.tenant
    from tenants t
    left join oncefleet.tenant_policies p on p.tenant = t.tenant
    left join oncefleet.retention_marks m on m.tenant = t.tenant and m.kind = ${kind}
    where t.tenant is not null and exists (
      select from oncefleet.jobs j
      where j.tenant = t.tenant and j.id > coalesce(m.up_to, ${FIRST_ID}::uuid) and j.id < ${idAt(kind, defaults)}
    )`.execute(db);
  return rows.rows.map((row) => row.tenant);
}

/** A job that is no longer there. */
export interface RemovedJob {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  fence: number;
}

interface Swept {
  seen: number;
  removed: number;
  /** The jobs removed, where it was jobs. */
  gone: RemovedJob[];
}

/** A part of a tenant's scan: removes what is due, notes the rest for later, moves the mark. */
export async function sweepAlong(
  db: Kysely<Database>,
  kind: RetentionKind,
  tenant: string,
  defaults: Retention,
  limit: number,
): Promise<Swept> {
  return db.transaction().execute(async (trx) => {
    const rows = await sql<{ id: string; due: boolean }>`
      select j.id, coalesce(${dueAt(kind, defaults)} <= clock_timestamp(), false) as due
      from (select ${tenant}::text as tenant) t
      left join oncefleet.tenant_policies p on p.tenant = t.tenant
      left join oncefleet.retention_marks m on m.tenant = t.tenant and m.kind = ${kind}
      join oncefleet.jobs j on j.tenant = t.tenant and j.id > coalesce(m.up_to, ${FIRST_ID}::uuid) and j.id < ${idAt(kind, defaults)}
      order by j.id
      limit ${limit}`.execute(trx);
    const last = rows.rows.at(-1);
    if (last === undefined) return { seen: 0, removed: 0, gone: [] };
    const due = rows.rows.filter((row) => row.due).map((row) => row.id);
    const { handled, removed, gone } = await remove(trx, kind, due, defaults);
    const later = rows.rows.map((row) => row.id).filter((id) => !handled.has(id));
    await putDown(trx, kind, later, defaults);
    await sql`
      insert into oncefleet.retention_marks (tenant, kind, up_to) values (${tenant}, ${kind}, ${last.id})
      on conflict (tenant, kind) do update set up_to = excluded.up_to`.execute(trx);
    return { seen: rows.rows.length, removed, gone };
  });
}

/** Of what was noted for later, a part whose time has come. */
export async function sweepLater(
  db: Kysely<Database>,
  kind: RetentionKind,
  defaults: Retention,
  limit: number,
): Promise<Swept> {
  return db.transaction().execute(async (trx) => {
    const rows = await sql<{ id: string; due: boolean }>`
      select l.job_id as id, coalesce(${dueAt(kind, defaults)} <= clock_timestamp(), false) as due
      from (
        select job_id from oncefleet.retention_later where kind = ${kind} and look_at <= clock_timestamp()
        order by look_at limit ${limit}
      ) l
      left join oncefleet.jobs j on j.id = l.job_id
      left join oncefleet.tenant_policies p on p.tenant = j.tenant`.execute(trx);
    const ids = rows.rows.map((row) => row.id);
    if (ids.length === 0) return { seen: 0, removed: 0, gone: [] };
    const due = rows.rows.filter((row) => row.due).map((row) => row.id);
    const { handled, removed, gone } = await remove(trx, kind, due, defaults);
    await sql`
      delete from oncefleet.retention_later
      where kind = ${kind} and job_id = any(${ids}::uuid[])`.execute(trx);
    await putDown(
      trx,
      kind,
      ids.filter((id) => !handled.has(id)),
      defaults,
    );
    return { seen: ids.length, removed, gone };
  });
}

const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** A tenant's limit, `p` being its policy. */
function limitMs(kind: RetentionKind, defaults: Retention) {
  const column = sql.ref(kind === 'stream' ? 'p.stream_retention_ms' : 'p.job_retention_ms');
  const standard = kind === 'stream' ? defaults.streamMs : defaults.jobMs;
  return sql<number>`coalesce(${column}, ${String(standard)}::float8)`;
}

/** When a job `j` is due; null while it has not ended. Its key is held for its TTL whatever the policy says. */
function dueAt(kind: RetentionKind, defaults: Retention) {
  const ms = limitMs(kind, defaults);
  const due = sql<Date | null>`(case
    when j.finished_at is null then null
    when ${ms} = 'infinity' then 'infinity'::timestamptz
    else j.finished_at + ${ms} * interval '1 ms'
  end)`;
  return kind === 'stream'
    ? due
    : sql<Date | null>`greatest(${due}, case when ${due} is not null then j.expires_at end)`;
}

/** The first id that a job made now less the limit could have (UUID version 7: 48 bits of ms). */
function idAt(kind: RetentionKind, defaults: Retention) {
  const ms = limitMs(kind, defaults);
  return sql`(case
    when ${ms} = 'infinity' then ${FIRST_ID}::uuid
    else (lpad(to_hex(greatest(0, extract(epoch from clock_timestamp()) * 1000 - ${ms})::bigint), 12, '0') || repeat('0', 20))::uuid
  end)`;
}

async function putDown(
  db: Kysely<Database>,
  kind: RetentionKind,
  ids: readonly string[],
  defaults: Retention,
): Promise<void> {
  if (ids.length === 0) return;
  const ms = limitMs(kind, defaults);
  // Unfinished: it cannot be due before it may run and its limit has passed.
  await sql`
    insert into oncefleet.retention_later (kind, job_id, look_at)
    select ${kind}, j.id, least(
      clock_timestamp() + ${LOOK_AGAIN_MS}::float8 * interval '1 ms',
      greatest(
        clock_timestamp() + least(${ms}, ${LOCKED_AGAIN_MS}) * interval '1 ms',
        ${dueAt(kind, defaults)},
        case when j.finished_at is null then j.run_at end
      ))
    from oncefleet.jobs j left join oncefleet.tenant_policies p on p.tenant = j.tenant
    where j.id = any(${ids}::uuid[])
    on conflict (kind, job_id) do update set look_at = excluded.look_at`.execute(db);
}

/** @returns the jobs dealt with (locked ones are not), and how many of them had something to remove */
async function remove(
  db: Kysely<Database>,
  kind: RetentionKind,
  ids: readonly string[],
  defaults: Retention,
): Promise<{ handled: Set<string>; removed: number; gone: RemovedJob[] }> {
  if (ids.length === 0) return { handled: new Set(), removed: 0, gone: [] };
  // Decided again under the lock: a redrive may have been faster.
  const victims = sql`
    select j.id from oncefleet.jobs j left join oncefleet.tenant_policies p on p.tenant = j.tenant
    where j.id = any(${ids}::uuid[]) and j.status in ('completed', 'failed', 'cancelled')
      and ${dueAt(kind, defaults)} <= clock_timestamp()
    for update of j skip locked`;
  const rows =
    kind === 'stream'
      ? await sql<{ id: string; removed: boolean } & Partial<RemovedJob>>`
          with victim as materialized (${victims}), head as (
            update oncefleet.stream_heads h set kept_from = h.next_seq, fold_due = null
            from victim v
            where h.stream_id = v.id and h.state = 'closed' and coalesce(h.kept_from, 0) < h.next_seq
            returning h.stream_id
          ), gone as (
            delete from oncefleet.journal_segments s using head h where s.stream_id = h.stream_id
          )
          select v.id, h.stream_id is not null as removed
          from victim v left join head h on h.stream_id = v.id`.execute(db)
      : await sql<RemovedJob & { removed: boolean }>`
          with victim as materialized (${victims}), segments as (
            delete from oncefleet.journal_segments s using victim v where s.stream_id = v.id
          ), heads as (
            delete from oncefleet.stream_heads h using victim v where h.stream_id = v.id
          ), attempts as (
            delete from oncefleet.ended_attempts a using victim v where a.job_id = v.id
          ), later as (
            delete from oncefleet.retention_later l using victim v where l.job_id = v.id
          ), chat as (
            delete from oncefleet.chat_requests c using victim v where c.job_id = v.id
          ), alerts as (
            delete from oncefleet.poison_alerts a using victim v where a.job_id = v.id
          )
          delete from oncefleet.jobs j using victim v where j.id = v.id
          returning j.id, j.tenant, j.name, j.queue, j.fence, true as removed`.execute(db);
  return {
    handled: new Set(rows.rows.map((row) => row.id)),
    removed: rows.rows.filter((row) => row.removed).length,
    gone: kind === 'job' ? (rows.rows as RemovedJob[]) : [],
  };
}
