/** What our BullMQ jobs carry, and how they differ from those that other clients add. */
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { isUuid } from '../util/uuid.ts';

/** The tenant that is not spelled out. */
const DEFAULT_TENANT = 'default';

/** Of `oncefleet` in a job's data. */
const FORMAT = 1;

/**
 * BullMQ's job id is the row's id; the rest is for people at Bull Board, the input stays in Postgres.
 *
 * Short on purpose: Redis keeps a hash in one piece only while no value of it is longer than 64
 * bytes (`hash-max-listpack-value`). `oncefleet` stands first: the trimmer of completed jobs
 * recognises ours by it.
 */
interface JobData {
  oncefleet: typeof FORMAT;
  key: string | null;
  /** Absent: `default`. */
  tenant?: string;
  /** Only where the job may run while Postgres is unreachable. */
  input?: unknown;
}

export function toJobData({ tenant, key, input }: DispatchRow): JobData {
  return {
    oncefleet: FORMAT,
    key,
    ...(tenant === DEFAULT_TENANT ? {} : { tenant }),
    ...(input === undefined ? {} : { input }),
  };
}

/** A BullMQ job, of any client. */
interface BullJob {
  id?: string | number | null | undefined;
  name: string;
  data?: unknown;
}

/** The row a BullMQ job is about; undefined for a job that another client added. */
export function readJobData(
  job: Omit<BullJob, 'name'>,
): { jobId: string; tenant: string; key: string | null } | undefined {
  const { id, data } = job;
  if (typeof data !== 'object' || data === null) return undefined;
  const { oncefleet, jobId: named, tenant = DEFAULT_TENANT, key = null } = data as Record<string, unknown>;
  // An id that is a row's is that row's for good: another one in its data would run that other job.
  const jobId = typeof id === 'string' && isUuid(id) ? id : (named ?? id);
  if (oncefleet !== FORMAT || typeof jobId !== 'string' || !isUuid(jobId) || typeof tenant !== 'string')
    return undefined;
  return { jobId, tenant, key: typeof key === 'string' ? key : null };
}

/** Whether what Redis has as the row's job is what was dispatched: else its delivery is refused. */
export function isAsDispatched(row: Pick<DispatchRow, 'id' | 'tenant' | 'name' | 'source'>, job: BullJob): boolean {
  const own = readJobData(job);
  return own === undefined ? row.source != null : own.tenant === row.tenant && job.name === row.name;
}

/** Whether the data that Redis has of a job, as text, are what `toJobData` writes for the row of that id. */
export function isOwnData(id: string, json: unknown): boolean {
  if (typeof json !== 'string') return false;
  try {
    return readJobData({ id, data: JSON.parse(json) })?.jobId === id;
  } catch {
    return false;
  }
}

/** Data as people are shown it, with the row and the tenant that it leaves out. */
export function shownData(job: { id?: string | undefined; data: unknown }): unknown {
  const own = readJobData(job);
  return own === undefined ? job.data : { ...(job.data as object), jobId: own.jobId, tenant: own.tenant };
}
