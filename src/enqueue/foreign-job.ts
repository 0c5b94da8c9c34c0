/** Jobs that other BullMQ clients added: what names one for good, its key, and how it is added to its queue again. */
import { createHash } from 'node:crypto';
import type { Job, JobsOptions } from 'bullmq';
import type { JobSource } from '../db/jobs/source.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { OncefleetError } from '../errors.ts';
import { isUuid } from '../util/uuid.ts';
import { checkKey, MAX_KEY_BYTES } from './fingerprint.ts';

/** The BullMQ option by which a job that the fleet added again names its row. */
const ROW_OPTION = 'oncefleet';

/**
 * Options that say how a job came to its queue, which happens once. Kept, a deduplication key would
 * swallow the job that is added again, and `repeat` would make a second schedule.
 */
const ADDED_ONCE: ReadonlySet<string> = new Set([
  ROW_OPTION,
  'debounce',
  'deduplication',
  'delay',
  'jobId',
  'prevMillis',
  'repeat',
  'repeatJobKey',
  'timestamp',
]);

/** Which BullMQ job this is. */
export function sourceOf(job: Job): JobSource {
  const { queueName, queueQualifiedName, id, timestamp, opts } = job;
  return {
    prefix: queueQualifiedName.slice(0, -(queueName.length + 1)),
    queue: queueName,
    id: String(id),
    timestamp,
    opts: Object.fromEntries(Object.entries(opts).filter(([name]) => !ADDED_ONCE.has(name))),
  };
}

/** The row that a job which the fleet added again says it delivers. A copy of it says so too. */
export function namedRow(job: Job): string | undefined {
  const id = (job.opts as Record<string, unknown>)[ROW_OPTION];
  return typeof id === 'string' && isUuid(id) ? id : undefined;
}

/**
 * The key in a job's data; undefined where it has none. An order's number is as good a key as its text.
 *
 * @throws OncefleetError KEY_INVALID
 */
export function keyInData(data: unknown): string | undefined {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return undefined;
  const { idempotencyKey } = data as { idempotencyKey?: unknown };
  return toKey(idempotencyKey, 'idempotencyKey');
}

/**
 * A key that a caller gave, checked; undefined where none was given. Data written before there was a
 * fleet often have an empty field.
 *
 * @throws OncefleetError KEY_INVALID
 */
export function toKey(value: unknown, what: string): string | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const key = typeof value === 'number' && Number.isSafeInteger(value) ? String(value) : value;
  if (typeof key !== 'string')
    throw new OncefleetError('KEY_INVALID', `${what}: expected a string or a whole number, got ${typeof value}`);
  checkKey(key);
  return key;
}

/** The key of a job that has none: BullMQ's name for it. Its id alone is none, for numbers start at 1 after a flush. */
export function ownKey({ queue, id, timestamp }: JobSource): string {
  const key = `bullmq:${queue}:${id}:${timestamp}`;
  // BullMQ takes any text for an id.
  const fits = Buffer.byteLength(key) <= MAX_KEY_BYTES && key.isWellFormed() && !/\p{Cc}/u.test(key);
  return fits
    ? key
    : `bullmq:${createHash('sha256')
        .update(JSON.stringify([queue, id]))
        .digest('hex')}:${timestamp}`;
}

/** Begins a name that a row has escaped. */
const ESCAPED = 'json:';

/** A name as a row can have it: BullMQ takes any text for one, and Postgres has no NUL. */
export function storedName(name: string): string {
  return name.includes('\0') || !name.isWellFormed() || name.startsWith(ESCAPED)
    ? ESCAPED + JSON.stringify(name)
    : name;
}

/** The name that `storedName` was given. Of a row of an earlier build: the name itself. */
export function nameAgain(stored: string): string {
  if (!stored.startsWith(ESCAPED)) return stored;
  try {
    return String(JSON.parse(stored.slice(ESCAPED.length)));
  } catch {
    return stored;
  }
}

/** What a job says, without its key: this is what makes two of them the same. */
export function withoutKey(data: unknown): unknown {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return { value: data };
  const { idempotencyKey: _key, ...input } = data as Record<string, unknown>;
  return input;
}

/** BullMQ's id for a row's job that is added again: the one it had, where BullMQ takes that from a caller. */
export function idAgain(row: { id: string }, source: JobSource): string {
  const { id } = source;
  const isOwnNumber = String(Number.parseInt(id, 10)) === id;
  return isOwnNumber || id === '' || id.includes(':') ? `${ROW_OPTION}-${row.id}` : id;
}

/** Options to add a row's job to its queue again. */
export function optionsAgain(row: DispatchRow, source: JobSource): JobsOptions {
  return {
    ...source.opts,
    jobId: idAgain(row, source),
    timestamp: source.timestamp,
    ...(row.delayMs < 0.5 ? {} : { delay: Math.round(row.delayMs) }),
    [ROW_OPTION]: row.id,
  } as JobsOptions;
}
