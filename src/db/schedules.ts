/** Queries on `schedules`. Times are milliseconds since 1970, by Postgres's clock. */
import { type Kysely, sql, type Transaction } from 'kysely';
import { unfinished } from './jobs/states.ts';
import type { Database } from './schema.ts';

export type CatchUp = 'skip' | 'one' | 'all';
export type Overlap = 'allow' | 'skip';

/** What a person says of a schedule. */
interface NewSchedule {
  tenant: string;
  name: string;
  jobName: string;
  cron: string | null;
  timeZone: string | null;
  everyMs: number | null;
  anchorAt: number;
  startAt: number | null;
  endAt: number | null;
  /** JSON text. */
  input: string;
  priority: number;
  catchUp: CatchUp;
  overlap: Overlap;
  nextAt: number | null;
}

export interface ScheduleRow extends NewSchedule {
  lastAt: number | null;
  lastJobId: string | null;
  tickCount: number;
  skippedCount: number;
  pausedAt: number | null;
}

export interface DueSchedule extends ScheduleRow {
  nextAt: number;
  /** The job of its last tick has not ended. */
  busy: boolean;
}

const ms = (column: string) => sql.raw(`(extract(epoch from ${column}) * 1000)::float8`);
const time = (at: number | null) => sql`to_timestamp(${at}::float8 / 1000)`;

const COLUMNS = sql`s.tenant, s.name, s.job_name as "jobName", s.cron, s.time_zone as "timeZone", s.every_ms as "everyMs",
  ${ms('s.anchor_at')} as "anchorAt", ${ms('s.start_at')} as "startAt", ${ms('s.end_at')} as "endAt", s.input,
  s.priority, s.catch_up as "catchUp", s.overlap, ${ms('s.next_at')} as "nextAt", ${ms('s.last_at')} as "lastAt",
  s.last_job_id as "lastJobId", s.tick_count as "tickCount", s.skipped_count as "skippedCount",
  ${ms('s.paused_at')} as "pausedAt"`;

export async function findNow(db: Kysely<Database>): Promise<number> {
  const { rows } = await sql<{ now: number }>`select ${ms('clock_timestamp()')} as now`.execute(db);
  return Math.trunc((rows[0] as { now: number }).now);
}

/** A page by name. */
export async function findSchedules(
  db: Kysely<Database>,
  { tenant, after, limit }: { tenant: string; after: string | undefined; limit: number },
): Promise<ScheduleRow[]> {
  const { rows } = await sql<ScheduleRow>`
    select ${COLUMNS} from oncefleet.schedules s
    where s.tenant = ${tenant} and ${after === undefined ? sql`true` : sql`s.name > ${after}`}
    order by s.name limit ${limit}`.execute(db);
  return rows;
}

/** The row of a schedule, locked. */
export async function lockSchedule(
  trx: Transaction<Database>,
  { tenant, name }: { tenant: string; name: string },
): Promise<ScheduleRow | undefined> {
  const { rows } = await sql<ScheduleRow>`
    select ${COLUMNS} from oncefleet.schedules s where s.tenant = ${tenant} and s.name = ${name} for update`.execute(
    trx,
  );
  return rows[0];
}

/** Inserts a schedule, or writes all of it over the one that has the name. */
export async function putSchedule(db: Kysely<Database>, s: NewSchedule): Promise<void> {
  await sql`
    insert into oncefleet.schedules (tenant, name, job_name, cron, time_zone, every_ms, anchor_at, start_at, end_at, input,
      priority, catch_up, overlap, next_at)
    values (${s.tenant}, ${s.name}, ${s.jobName}, ${s.cron}, ${s.timeZone}, ${s.everyMs}::bigint, ${time(s.anchorAt)},
      ${time(s.startAt)}, ${time(s.endAt)}, ${s.input}::json, ${s.priority}, ${s.catchUp}, ${s.overlap}, ${time(s.nextAt)})
    on conflict (tenant, name) do update set job_name = excluded.job_name, cron = excluded.cron,
      time_zone = excluded.time_zone, every_ms = excluded.every_ms, anchor_at = excluded.anchor_at,
      start_at = excluded.start_at, end_at = excluded.end_at, input = excluded.input, priority = excluded.priority,
      catch_up = excluded.catch_up, overlap = excluded.overlap, next_at = excluded.next_at,
      updated_at = clock_timestamp()`.execute(db);
}

export async function deleteSchedule(
  db: Kysely<Database>,
  { tenant, name }: { tenant: string; name: string },
): Promise<boolean> {
  const { numDeletedRows } = await db
    .deleteFrom('schedules')
    .where('tenant', '=', tenant)
    .where('name', '=', name)
    .executeTakeFirst();
  return numDeletedRows > 0n;
}

export async function setPaused(
  trx: Transaction<Database>,
  { tenant, name }: { tenant: string; name: string },
  { paused, nextAt }: { paused: boolean; nextAt: number | null },
): Promise<void> {
  await sql`
    update oncefleet.schedules set paused_at = ${paused ? sql`coalesce(paused_at, clock_timestamp())` : sql`null`},
      next_at = ${time(nextAt)}, updated_at = clock_timestamp()
    where tenant = ${tenant} and name = ${name}`.execute(trx);
}

/** Until the next tick of a schedule of these jobs, in milliseconds, negative where it is due; undefined: there is none. */
export async function msToNextTick(db: Kysely<Database>, jobNames: readonly string[]): Promise<number | undefined> {
  const { rows } = await sql<{ left: number }>`
    select ${ms('next_at - clock_timestamp()')} as left from oncefleet.schedules
    where next_at is not null and paused_at is null and job_name = any(${jobNames}::text[])
    order by next_at limit 1`.execute(db);
  return rows[0]?.left;
}

/** Schedules that are due, longest first; those that another process has locked are left to it. */
export async function lockDue(
  trx: Transaction<Database>,
  options: { jobNames: readonly string[]; limit: number; idleLimitMs: number },
): Promise<{ now: number; due: DueSchedule[] }> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(options.idleLimitMs)}, true)`.execute(
    trx,
  );
  const { rows } = await sql<DueSchedule & { now: number }>`
    select ${COLUMNS}, ${ms('statement_timestamp()')} as now,
      exists (select from oncefleet.jobs j where j.id = s.last_job_id and ${sql.raw(unfinished('j'))}) as busy
    from oncefleet.schedules s
    where s.next_at <= statement_timestamp() and s.paused_at is null and s.job_name = any(${options.jobNames}::text[])
    order by s.next_at limit ${options.limit}
    for update of s skip locked`.execute(trx);
  return { now: rows[0]?.now ?? 0, due: rows };
}

interface Ticked {
  tenant: string;
  name: string;
  nextAt: number | null;
  /** Of the last tick that made a job. */
  lastAt: number | null;
  lastJobId: string | null;
  made: number;
  skipped: number;
}

export async function noteTicks(trx: Transaction<Database>, t: Ticked): Promise<void> {
  await sql`
    update oncefleet.schedules set next_at = ${time(t.nextAt)}, last_at = coalesce(${time(t.lastAt)}, last_at),
      last_job_id = coalesce(${t.lastJobId}::uuid, last_job_id), tick_count = tick_count + ${t.made}::bigint,
      skipped_count = skipped_count + ${t.skipped}::bigint
    where tenant = ${t.tenant} and name = ${t.name}`.execute(trx);
}

/** Schedules whose tick is overdue for longer than this, longest first. */
export async function findBehind(
  db: Kysely<Database>,
  { overdueMs, limit }: { overdueMs: number; limit: number },
): Promise<{ tenant: string; name: string; jobName: string; lateMs: number }[]> {
  const { rows } = await sql<{ tenant: string; name: string; jobName: string; lateMs: number }>`
    select tenant, name, job_name as "jobName", ${ms('clock_timestamp() - next_at')} as "lateMs" from oncefleet.schedules
    where next_at < statement_timestamp() - ${overdueMs}::float8 * interval '1 ms' and paused_at is null
    order by next_at limit ${limit}`.execute(db);
  return rows;
}
