/** What a person looks at in the console, of a tenant or of all, and what the person did there. */
import type { Queue } from 'bullmq';
import { type AuditEntry, findAudit, finishAudit, insertAudit } from '../db/audit-log.ts';
import { type Backlog, findBacklog } from '../db/backlog.ts';
import { findJobs } from '../db/jobs/find.ts';
import {
  findBusyWorkers,
  findJobDetails,
  findLastRound,
  findTenantOf,
  type InspectFilter,
  type Inspection,
  inspectJobs,
} from '../db/jobs/inspect.ts';
import { INSPECTED_ROWS } from '../db/jobs/inspect-failed.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { OncefleetError } from '../errors.ts';
import { isUuid } from '../util/uuid.ts';
import { within } from '../util/with-timeout.ts';
import type { ClientHost } from './host.ts';
import { toSummary } from './read.ts';
import type { JobSummary } from './types.ts';

/** The page is about Postgres: a Redis that is unreachable costs it what BullMQ says, and no more. */
const BULL_WAIT_MS = 1_000;
const FLEET_LIMITS = { jobs: 5_000, tenants: 20, queues: 100, statementMs: 3_000 };
const MAX_WORKERS = 200;
const MAX_AUDIT = 50;

interface InspectedPage extends Pick<Inspection, 'seen' | 'counts'> {
  jobs: JobSummary[];
  nextCursor: string | null;
  /** More jobs there are than were looked at. */
  more: boolean;
}

export interface BullView {
  /** `unknown`: BullMQ does not have it; `unreachable`: Redis does not answer. */
  state: string;
  attemptsMade?: number;
  failedReason?: string;
}

export interface JobDetails {
  leaseUntil: Date | null;
  leaseLeftMs: number | null;
  /** As far as the lease of the process that looks is that of the worker. */
  heartbeatAt: Date | null;
  deadlineAt: Date | null;
  attempts: number | undefined;
  lastEventAt: Date | null;
  events: number | null;
}

export interface FleetView {
  backlog: Backlog;
  queues: { name: string; workers: number | undefined; paused: boolean | undefined }[];
  workers: { worker: string; jobs: number; held: number; sample: { id: string; name: string }[] }[];
  lastRound: { worker: string; at: Date } | undefined;
}

export interface Inspector {
  /** @throws OncefleetError CURSOR_INVALID, KEY_INVALID, BUSY */
  search(filter: InspectFilter, limit: number): Promise<InspectedPage>;
  /** `undefined`: no such job in this tenant; null: in any. */
  tenantOf(id: string, tenant: string | null): Promise<string | undefined>;
  details(id: string): Promise<JobDetails | undefined>;
  bull(job: { id: string; queue: string }): Promise<BullView>;
  fleet(tenant: string | null): Promise<FleetView>;
  audit(tenant: string | null, jobId?: string): ReturnType<typeof findAudit>;
  /** Notes what a person asks for, does it, and notes what came of it. */
  act<T>(entry: AuditEntry, run: () => Promise<T>, outcomeOf: (result: T) => string): Promise<T>;
}

export function createInspector(host: ClientHost, queues: () => readonly Queue[]): Inspector {
  const { db, settings } = host.runtime;
  return {
    async search(filter, limit) {
      if (filter.before !== undefined && !isUuid(filter.before))
        throw new OncefleetError('CURSOR_INVALID', 'cursor: expected the one of an earlier page');
      if (filter.key !== undefined) checkKey(filter.key);
      return host.search(async (trx) => {
        const { ids, seen, counts, end } = await inspectJobs(trx, filter, limit);
        const rows = await findJobs(trx, filter.tenant, ids);
        return { jobs: rows.map(toSummary), seen, counts, nextCursor: end ?? null, more: seen === INSPECTED_ROWS };
      });
    },
    async tenantOf(id, tenant) {
      const found = isUuid(id) ? await findTenantOf(db.kysely, id) : undefined;
      return tenant === null || found === tenant ? found : undefined;
    },
    async details(id) {
      const row = await findJobDetails(db.kysely, id);
      if (row === undefined) return undefined;
      const options = JSON.parse(row.options) as { attempts?: number } | null;
      return {
        leaseUntil: row.lease_expires_at,
        leaseLeftMs: row.lease_left_ms,
        heartbeatAt:
          row.lease_expires_at === null ? null : new Date(row.lease_expires_at.getTime() - settings.leaseTtlMs),
        deadlineAt: row.deadline_at,
        attempts: options?.attempts,
        lastEventAt: row.last_event_at,
        events: row.next_seq,
      };
    },
    async bull({ id, queue: name }) {
      const queue = queues().find((one) => one.name === name);
      if (queue === undefined) return { state: 'unknown' };
      return within(
        BULL_WAIT_MS,
        lookUp(queue, id).catch(() => ({ state: 'unreachable' })),
        () => ({ state: 'unreachable' }),
      );
    },
    async fleet(tenant) {
      const [backlog, workers, round, shown] = await Promise.all([
        findBacklog(db.kysely, FLEET_LIMITS),
        findBusyWorkers(db.kysely, tenant, MAX_WORKERS),
        findLastRound(db.kysely),
        Promise.all(queues().map(lookAt)),
      ]);
      const groups = backlog.groups.filter((group) => tenant === null || group.tenant === tenant);
      return {
        backlog: { ...backlog, groups },
        queues: shown,
        workers: workers.map(({ worker, jobs, held, ids, names }) => ({
          worker,
          jobs,
          held,
          sample: ids.map((id, i) => ({ id, name: names[i] ?? '' })),
        })),
        lastRound: round === undefined ? undefined : { worker: round.worker, at: round.finished_at },
      };
    },
    audit: (tenant, jobId) => findAudit(db.kysely, { tenant, jobId, limit: MAX_AUDIT }),
    act: (entry, run, outcomeOf) => act(host, entry, run, outcomeOf),
  };
}

/** What Redis knows of a queue, if it answers in time. */
async function lookAt(queue: Queue): Promise<FleetView['queues'][number]> {
  const look = Promise.all([queue.getWorkersCount(), queue.isPaused()]).catch(() => undefined);
  const seen = await within(BULL_WAIT_MS, look, () => undefined);
  return { name: queue.name, workers: seen?.[0], paused: seen?.[1] };
}

async function act<T>(
  { runtime: { db, log } }: ClientHost,
  entry: AuditEntry,
  run: () => Promise<T>,
  outcomeOf: (result: T) => string,
): Promise<T> {
  const id = await insertAudit(db.kysely, entry);
  const note = (outcome: string) =>
    finishAudit(db.kysely, id, outcome.slice(0, 500)).catch((err: unknown) =>
      log.warn({ err, auditId: id }, 'what came of an action is not noted'),
    );
  try {
    const result = await run();
    await note(outcomeOf(result));
    return result;
  } catch (error) {
    await note(`refused: ${error instanceof OncefleetError ? error.code : 'INTERNAL'}`);
    throw error;
  }
}

async function lookUp(queue: Queue, id: string): Promise<BullView> {
  const [job, state] = await Promise.all([queue.getJob(id), queue.getJobState(id)]);
  return { state, ...(job === undefined ? {} : { attemptsMade: job.attemptsMade, failedReason: job.failedReason }) };
}
