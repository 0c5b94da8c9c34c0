/** Reading jobs: one with its attempts, or a page of those that match. */
import type { Kysely } from 'kysely';
import { findAttempts, findJobRecord, findJobs, type JobSummaryRow } from '../db/jobs/find.ts';
import { type JobFilter, searchJobs } from '../db/jobs/search.ts';
import type { Database } from '../db/schema.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { OncefleetError } from '../errors.ts';
import { clamp, clampWhole } from '../numbers.ts';
import { parseOptions } from '../options.ts';
import { isUuid } from '../util/uuid.ts';
import { type ClientHost, tenantOf } from './host.ts';
import { DEFAULT_PAGE, findSchema, getSchema, MAX_ATTEMPTS } from './options.ts';
import type { AttemptRecord, FindOptions, GetOptions, JobPage, JobRecord, JobSummary } from './types.ts';

/** Statements of one search for a status: 100,000 rows are looked through, then the page ends. */
const MAX_ROUNDS = 10;

const LAST_TIME = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
/** What a Date cannot hold is far away: Postgres begins with 4713 BC, which one does hold. */
const TIME = { min: Date.parse('0001-01-01T00:00:00.000Z'), max: LAST_TIME, default: LAST_TIME };
/** Readers of JSON have doubles. */
const COUNT = { min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER, default: 0 };

/** After this time no further statement is begun. */
const SPELL_MS = 1_000;
/** Postgres's own bound for a value is half of it, a gigabyte. */
const ANY_SIZE = 2 ** 31 - 1;

export async function getJob(host: ClientHost, id: string, options: GetOptions = {}): Promise<JobRecord | undefined> {
  const { tenant, maxBytes = ANY_SIZE } = parseOptions('get', getSchema, options);
  const db = host.runtime.db.kysely;
  if (!isUuid(id)) return undefined;
  const row = await findJobRecord(db, tenantOf(host, { tenant }), id, maxBytes);
  if (row === undefined) return undefined;
  const attempts = await findAttempts(db, id, MAX_ATTEMPTS);
  return {
    ...toSummary(row),
    input: row.input === null ? null : JSON.parse(row.input),
    result: row.result === null ? null : JSON.parse(row.result),
    leftOut: [
      ...(row.input === null ? ['input' as const] : []),
      ...(row.has_result && row.result === null ? ['result' as const] : []),
    ],
    progress: toProgress(row.progress),
    attempts: attempts.map((attempt) => ({
      fence: clampWhole(attempt.fence, COUNT),
      worker: attempt.worker,
      host: attempt.host,
      startedAt: toTime(attempt.started_at),
      finishedAt: toTimeOrNull(attempt.finished_at),
      outcome: attempt.outcome as AttemptRecord['outcome'],
      error: attempt.error === null ? null : JSON.parse(attempt.error),
    })),
  };
}

export async function findPage(host: ClientHost, options: FindOptions = {}): Promise<JobPage> {
  const { limit = DEFAULT_PAGE } = parseOptions('Search', findSchema, options);
  if (options.cursor !== undefined && !isUuid(options.cursor)) {
    throw new OncefleetError('CURSOR_INVALID', 'cursor: expected the nextCursor of an earlier page');
  }
  const { key, name, status, cursor } = options;
  if (key !== undefined) checkKey(key);
  const filter = { tenant: tenantOf(host, options), key, name, status, before: cursor };
  const { rows, nextCursor } = await host.search((trx) => findRows(trx, filter, limit));
  return { jobs: rows.map(toSummary), nextCursor };
}

/** A page: full, or of the jobs that the first rows of the search have. */
async function findRows(db: Kysely<Database>, filter: JobFilter, limit: number) {
  const ids: string[] = [];
  let end = filter.before;
  const startedAt = performance.now();
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const found = await searchJobs(db, { ...filter, before: end }, limit + 1 - ids.length);
    ids.push(...found.ids);
    end = found.end;
    if (end === undefined || ids.length > limit || performance.now() - startedAt > SPELL_MS) break;
  }
  const page = ids.slice(0, limit);
  const nextCursor = ids.length > limit ? (page.at(-1) ?? null) : (end ?? null);
  return { rows: await findJobs(db, filter.tenant, page), nextCursor };
}

function toProgress(json: string | null): JobRecord['progress'] {
  if (json === null) return null;
  const value = JSON.parse(json) as { type: string; done: number } | null;
  if (typeof value !== 'object' || value === null) return null;
  const { type: _type, ...progress } = value;
  return progress;
}

/** Postgres's times reach further than a Date, and to infinity; the API's have a year of four digits. */
function toTime(value: Date | number): string {
  return new Date(clamp(value instanceof Date ? value.getTime() : value, TIME)).toISOString();
}

function toTimeOrNull(value: Date | number | null): string | null {
  return value === null ? null : toTime(value);
}

export function toSummary(row: JobSummaryRow): JobSummary {
  return {
    id: row.id,
    tenant: row.tenant,
    name: row.name,
    queue: row.queue,
    key: row.idempotency_key,
    status: row.status,
    fence: clampWhole(row.fence, COUNT),
    error: row.error === null ? null : JSON.parse(row.error),
    crashCount: row.crash_count,
    errorCount: row.error_count,
    deferralCount: row.deferral_count,
    limitedCount: row.limited_count,
    interruptionCount: row.interruption_count,
    runAt: toTime(row.run_at),
    createdAt: toTime(row.created_at),
    startedAt: toTimeOrNull(row.started_at),
    finishedAt: toTimeOrNull(row.finished_at),
    expiresAt: toTimeOrNull(row.expires_at),
    cancelRequestedAt: toTimeOrNull(row.cancel_requested_at),
    leaseOwner: row.lease_owner,
  };
}
