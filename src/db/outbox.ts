/** Queries on `dispatch_outbox`: jobs whose row is committed and that BullMQ may not have yet. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { JobKey, KeyedJob, NewJob, RowOptions } from './jobs/insert.ts';
import { readRowOptions } from './jobs/row-options.ts';
import { EXPIRED, msUntil } from './jobs/states.ts';
import type { DispatchRow } from './jobs/unfinished.ts';
import type { Database } from './schema.ts';

/** Runs one statement in a transaction that its caller owns. */
export type RunInTransaction = (text: string, parameters: readonly unknown[]) => Promise<Record<string, unknown>[]>;

/**
 * Fails outside of a transaction block, and does nothing inside of one: it takes the lock that
 * the insert takes anyway. Whether a connection is in a transaction cannot be asked in SQL
 * without an effect, and what a driver believes lags behind the statements it has queued.
 */
const REQUIRE_TRANSACTION = 'lock table oncefleet.jobs in row exclusive mode';

/** What Postgres answers to it where no row can be inserted. */
const NO_TRANSACTION: ReadonlyMap<unknown, string> = new Map([
  ['25P01', 'no transaction is open on it: begin one before, and commit it after the enqueue'],
  ['25P02', 'its transaction is aborted: roll it back'],
]);

/** Which `jobs` table a connection has: of which cluster, database and schema. @returns null where it has none */
export async function findHome(run: RunInTransaction): Promise<string | null> {
  return (await look(run)).home;
}

async function look(run: RunInTransaction): Promise<{ home: string | null; readOnly: boolean }> {
  const [row] = await run(
    `select s.system_identifier || '/' || d.oid || '/' || to_regclass('oncefleet.jobs')::oid as home,
       current_setting('transaction_read_only')::bool as read_only
     from pg_control_system() s, pg_database d where d.datname = current_database()`,
    [],
  );
  const { home = null, read_only: readOnly = false } = (row ?? {}) as { home?: string | null; read_only?: boolean };
  return { home, readOnly };
}

/**
 * Why a job cannot be enqueued in a transaction; undefined where it can. Nothing is spoilt by
 * having asked.
 *
 * @param home of the fleet
 */
export async function whyNotInTransaction(run: RunInTransaction, home: string | null): Promise<string | undefined> {
  try {
    // Before the lock, which would abort the transaction where there is no such table.
    const found = await look(run);
    if (found.home !== home) return "it is not on the fleet's database";
    if (found.readOnly) return 'its transaction is read-only';
    await run(REQUIRE_TRANSACTION, []);
    return undefined;
  } catch (error) {
    const why = NO_TRANSACTION.get((error as { code?: unknown }).code);
    if (why === undefined) throw error;
    return why;
  }
}

/**
 * Inserts jobs and their places in the outbox, in one statement.
 *
 * @returns those that are inserted, and the transaction's id; a job whose key is taken, also by one before it, is left out
 */
export async function insertJobsWithOutbox(
  run: RunInTransaction,
  jobs: readonly NewJob[],
): Promise<{ ids: Set<string>; xid: string | undefined }> {
  const rows = (await run(
    `with job as (
       insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, fingerprint, options, run_at, deadline_at, input, limit_keys)
       select id, tenant, name, queue, key, fingerprint, options::json, clock_timestamp() + delay_ms * interval '1 ms',
         clock_timestamp() + deadline_ms * interval '1 ms', input::json, limit_keys
       from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[],
           $9::float8[], $10::text[], $11::text[])
         as n (id, tenant, name, queue, key, fingerprint, options, delay_ms, deadline_ms, input, limit_keys)
       on conflict (tenant, name, idempotency_key, key_scope) where not key_released do nothing
       returning id, run_at, deadline_at
     ), unfinished as (
       insert into oncefleet.unfinished_jobs (job_id, run_at, end_by) select id, run_at, deadline_at from job
     ), outbox as (
       insert into oncefleet.dispatch_outbox (job_id) select id from job
     )
     select id, pg_current_xact_id()::text as xid from job`,
    [
      jobs.map((job) => job.id),
      jobs.map((job) => job.tenant),
      jobs.map((job) => job.name),
      jobs.map((job) => job.queue),
      jobs.map((job) => job.key),
      jobs.map((job) => job.fingerprint),
      jobs.map((job) => JSON.stringify(job.options)),
      jobs.map((job) => job.delayMs),
      jobs.map((job) => job.deadlineMs),
      jobs.map((job) => job.input),
      jobs.map((job) => job.limitKeys ?? null),
    ],
  )) as unknown as { id: string; xid: string }[];
  return { ids: new Set(rows.map(({ id }) => id)), xid: rows[0]?.xid };
}

/**
 * The jobs that hold several keys, as this transaction sees them, in the order asked.
 *
 * @returns with `xid` of the transaction where it has written anything, which may be these very jobs
 */
export async function findKeysInTransaction(
  run: RunInTransaction,
  keys: readonly JobKey[],
): Promise<((KeyedJob & { xid: string | null }) | undefined)[]> {
  const rows = (await run(
    `select k.place::int as place, j.id, j.fingerprint, j.status, j.source_ref as "sourceRef", ${EXPIRED} as expired,
       pg_current_xact_id_if_assigned()::text as xid
     from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as k (tenant, name, key, scope, place)
     join oncefleet.jobs j on j.tenant = k.tenant and j.name = k.name and j.idempotency_key = k.key and j.key_scope = k.scope
       and not j.key_released`,
    [keys.map((k) => k.tenant), keys.map((k) => k.name), keys.map((k) => k.key), keys.map((k) => k.keyScope ?? '')],
  )) as unknown as (KeyedJob & { xid: string | null; place: number })[];
  const byPlace = new Map(rows.map(({ place, ...found }) => [place, found]));
  return keys.map((_, i) => byPlace.get(i + 1));
}

/** Which of some jobs there are, finished or not. */
export async function findExisting(db: Kysely<Database>, jobIds: readonly string[]): Promise<Set<string>> {
  const rows = await sql<{ id: string }>`select id from oncefleet.jobs where id = any(${jobIds}::uuid[])`.execute(db);
  return new Set(rows.rows.map(({ id }) => id));
}

/** `releaseKey` as a part of the caller's transaction. */
export async function releaseKeyInTransaction(run: RunInTransaction, jobId: string, failedToo: boolean): Promise<void> {
  await run(
    `update oncefleet.jobs set key_released = true
     where id = $1::uuid and not key_released and (${EXPIRED} or $2::boolean and status = 'failed')`,
    [jobId, failedToo],
  );
}

/** Notes jobs that are committed and could not be dispatched. */
export async function insertOutbox(db: Kysely<Database>, jobIds: readonly string[]): Promise<void> {
  await sql`
    insert into oncefleet.dispatch_outbox (job_id) select * from unnest(${jobIds}::uuid[])
    on conflict do nothing`.execute(db);
}

type TransactionStatus = 'in progress' | 'committed' | 'aborted' | null;

/** What became of transactions; null: too long ago for Postgres to know. */
export async function findTransactionStatuses(
  db: Kysely<Database>,
  xids: readonly string[],
): Promise<Map<string, TransactionStatus>> {
  const rows = await sql<{ xid: string; status: TransactionStatus }>`
    select xid, pg_xact_status(xid::xid8) as status from unnest(${xids}::text[]) as x (xid)`.execute(db);
  return new Map(rows.rows.map((row) => [row.xid, row.status]));
}

interface OutboxRow extends DispatchRow {
  /** It still waits to run; else it has run already, and there is nothing to dispatch. */
  pending: boolean;
}

/** Oldest first. Rows that another process is dispatching are skipped. */
export async function lockOutbox(
  trx: Transaction<Database>,
  options: { limit: number; jobIds?: readonly string[] | undefined },
): Promise<OutboxRow[]> {
  const { limit, jobIds } = options;
  const rows = await sql<{
    job_id: string;
    tenant: string | null;
    name: string;
    queue: string;
    idempotency_key: string | null;
    options: string;
    delay_ms: number;
    pending: boolean;
  }>`
    select o.job_id, j.tenant, j.name, j.queue, j.idempotency_key, j.options,
      ${sql.raw(msUntil('j.run_at'))} as delay_ms,
      coalesce(j.status = 'pending', false) as pending
    from oncefleet.dispatch_outbox o left join oncefleet.jobs j on j.id = o.job_id
    where ${jobIds === undefined ? sql`true` : sql`o.job_id = any(${jobIds}::uuid[])`}
    order by o.job_id
    limit ${limit}
    for update of o skip locked`.execute(trx);
  return rows.rows.map((row) => ({
    id: row.job_id,
    tenant: row.tenant ?? '',
    name: row.name,
    queue: row.queue,
    key: row.idempotency_key,
    options: row.tenant === null ? NO_OPTIONS : readRowOptions(row.options),
    delayMs: row.delay_ms,
    pending: row.pending,
  }));
}

/** Of an outbox row whose job was deleted by hand; such a row is only taken out. */
const NO_OPTIONS: RowOptions = { priority: 0, attempts: 1, backoff: { type: 'fixed', delayMs: 0 } };

export async function deleteOutbox(trx: Transaction<Database>, jobIds: readonly string[]): Promise<void> {
  await sql`delete from oncefleet.dispatch_outbox where job_id = any(${jobIds}::uuid[])`.execute(trx);
}
