import { type Kysely, sql } from 'kysely';
import type { TraceCarrier } from '../../util/tracing.ts';
import type { Database } from '../schema.ts';
import { named, textArray } from '../statement.ts';
import { type JobSource, sourceRef } from './source.ts';
import { EXPIRED, type JobStatus } from './states.ts';

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
  /** Nobody gave it a key: another BullMQ client's job, guarded under its own id. */
  keyless?: true;
  /** The trace that its enqueue is a part of; absent: nobody traced. */
  trace?: TraceCarrier;
}

export interface NewJob {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  key: string | null;
  /** Part of the key's scope. Absent for jobs of the fleet; around a user's own processor its queue, `<prefix>:<queue>`. */
  keyScope?: string;
  /** Absent where the fleet's own BullMQ job delivers it. */
  source?: JobSource;
  fingerprint: string;
  /** JSON text. */
  input: string;
  options: RowOptions;
  delayMs: number;
  deadlineMs: number | null;
  /** Keys of its limits, as JSON text of an array; absent: it has none. */
  limitKeys?: string | undefined;
}

/**
 * How long an insert waits for a transaction of some caller that has one of its keys and has not
 * ended. Longer than commits take; short, because a whole batch waits with it.
 */
const KEY_LOCK_WAIT_MS = 300;

/** Inserts several jobs in one statement; a job whose key is taken is left out. @returns the inserted ids @throws 55P03 */
export async function insertJobs(db: Kysely<Database>, jobs: readonly NewJob[]): Promise<Set<string>> {
  const result = await db.executeQuery(
    named<{ id: string }>(
      'insert_jobs',
      `with patience as materialized (
         select set_config('lock_timeout', '${KEY_LOCK_WAIT_MS}', true)
       ), job as (
         insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, fingerprint, options, run_at, deadline_at, input, key_scope, source, source_ref, limit_keys)
         select id, tenant, name, queue, key, fingerprint, options::json,
           clock_timestamp() + delay_ms * interval '1 ms', clock_timestamp() + deadline_ms * interval '1 ms', input::json,
           key_scope, source::json, source_ref, limit_keys
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::float8[], $10::text[],
             $11::text[], $12::text[], $13::text[], $14::text[])
           as n (id, tenant, name, queue, key, fingerprint, options, delay_ms, deadline_ms, input, key_scope, source, source_ref, limit_keys), patience
         on conflict (tenant, name, idempotency_key, key_scope) where not key_released do nothing
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
        textArray(jobs.map((job) => job.keyScope ?? '')),
        textArray(jobs.map((job) => (job.source === undefined ? null : JSON.stringify(job.source)))),
        textArray(jobs.map((job) => (job.source === undefined ? null : sourceRef(job.source)))),
        textArray(jobs.map((job) => job.limitKeys ?? null)),
      ],
    ),
  );
  return new Set(result.rows.map((row) => row.id));
}

export interface JobKey {
  tenant: string;
  name: string;
  key: string;
  keyScope?: string | undefined;
}

export interface KeyedJob {
  id: string;
  fingerprint: string;
  status: JobStatus;
  /** The BullMQ job that delivers it, as `sourceRef` writes it; null for jobs of the fleet. */
  sourceRef: string | null;
  /** Its outcome is past its TTL: the key may start anew. */
  expired: boolean;
}

/** The jobs that hold several keys at present, in the order asked; a key nobody holds gives undefined. */
export async function findJobsByKey(db: Kysely<Database>, keys: readonly JobKey[]): Promise<(KeyedJob | undefined)[]> {
  const result = await db.executeQuery(
    named<KeyedJob & { place: number }>(
      'find_by_key',
      `select k.place, j.id, j.fingerprint, j.status, j.source_ref as "sourceRef", ${EXPIRED} as expired
       from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as k (tenant, name, key, scope, place)
       join oncefleet.jobs j on j.tenant = k.tenant and j.name = k.name and j.idempotency_key = k.key and j.key_scope = k.scope
         and not j.key_released`,
      [keys.map((k) => k.tenant), keys.map((k) => k.name), keys.map((k) => k.key), keys.map((k) => k.keyScope ?? '')],
    ),
  );
  const byPlace = new Map(result.rows.map((row) => [row.place, row]));
  return keys.map((_, i) => byPlace.get(i + 1));
}

/**
 * Takes a key from a job whose outcome expired (or, with `failedToo`, that failed), so that
 * a new row can have it. The old row stays as it is, found by its id.
 *
 * @returns whether the job held the key and has released it now
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
