/**
 * Folds finished streams and removes what is past its retention. Every worker process has
 * one; as with the reconciler, a transaction-level advisory lock lets one of them work at a
 * time, and its death frees the lock with its connection.
 *
 * A round works in small transactions of its own, each complete in itself, and ends after a
 * while even if there is more: the lock's transaction must not grow old, and another process
 * may as well do the next.
 */
import { type Kysely, sql } from 'kysely';
import {
  findTenantsToSweep,
  type RemovedJob,
  type Retention,
  type RetentionKind,
  sweepAlong,
  sweepLater,
} from '../db/retention.ts';
import type { Database } from '../db/schema.ts';
import { findUnfolded, foldStream, forgetFold } from '../db/streams/fold.ts';
import { isTransient } from '../db/transient.ts';
import { sweepUploads } from '../db/uploads.ts';
import type { Logger } from '../log.ts';
import { within } from '../util/with-timeout.ts';

/** Any number that nothing else locks; "swep" in ASCII. */
const LOCK_ID = 0x73776570;

/** Streams folded, or jobs removed, before a round checks the time. */
const BATCH = 200;

/** Uploads removed at a time; each may have thousands of rows. */
const UPLOADS = 20;

/** After this time a round ends, even if there is more. */
const ROUND_MS = 5_000;

/** Between two rounds while there is more: the sweep never takes more than its share. */
const PAUSE_MS = 500;

/**
 * Postgres takes the lock from a process that has sent nothing for this time: frozen, or behind a cut
 * connection. Longer than a round and its last step, during which the lock's own connection is idle.
 */
const IDLE_LIMIT_MS = 60_000;

/** How long `close()` waits for the round in progress. */
const CLOSE_WAIT_MS = 2_000;

export interface SweepReport {
  /** Streams folded, and their segments before and after. */
  foldedStreams: number;
  segmentsBefore: number;
  segmentsAfter: number;
  /** Streams whose events were removed and whose job stays. */
  expiredStreams: number;
  removedJobs: number;
  /** Uploaded documents whose job has ended, or that never got one. */
  removedUploads: number;
  /** Streams that Postgres would not fold; the log says why. */
  failedFolds: number;
}

interface SweeperOptions {
  db: Kysely<Database>;
  log: Logger;
  /** For tenants without a policy of their own. */
  retention: Retention;
  /** Jobs that were removed. */
  expired(jobs: readonly RemovedJob[]): void;
  /** Pause between rounds. */
  intervalMs: number;
}

export class Sweeper {
  readonly #options: SweeperOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  readonly #closing = new AbortController();

  constructor(options: SweeperOptions) {
    this.#options = options;
  }

  start(): void {
    // Many processes start at once; the sweep has time.
    this.#schedule(Math.random() * this.#options.intervalMs);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#timer);
    await within(CLOSE_WAIT_MS, this.#round, () => undefined);
  }

  #schedule(ms: number): void {
    if (this.#closing.signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#runRound();
    }, ms);
    this.#timer.unref();
  }

  async #runRound(): Promise<void> {
    const { db, log, retention, intervalMs, expired } = this.#options;
    let more = false;
    try {
      const round = await sweepOnce(db, { retention, log, expired, signal: this.#closing.signal });
      more = round?.more ?? false;
    } catch (err) {
      if (isTransient(err)) log.warn({ err }, 'sweep waits for Postgres');
      else log.error({ err }, 'sweep failed');
    }
    this.#schedule(more ? Math.min(PAUSE_MS, intervalMs) : intervalMs);
  }
}

/**
 * One round.
 *
 * @returns what it did, and whether there is more; undefined: another process is at it
 */
export async function sweepOnce(
  db: Kysely<Database>,
  {
    retention,
    log,
    expired,
    signal,
  }: Pick<SweeperOptions, 'retention' | 'log' | 'expired'> & {
    signal?: AbortSignal | undefined;
  },
): Promise<{ report: SweepReport; more: boolean } | undefined> {
  return db.transaction().execute(async (trx) => {
    const lock = await sql<{ locked: boolean }>`
      select set_config('idle_in_transaction_session_timeout', ${String(IDLE_LIMIT_MS)}, true),
        pg_try_advisory_xact_lock(${LOCK_ID}) as locked`.execute(trx);
    if (lock.rows[0]?.locked !== true) return undefined;
    const started = performance.now();
    const report = emptyReport();
    const outOfTime = () => signal?.aborted === true || performance.now() - started > ROUND_MS;
    let more = false;
    try {
      // Removal first: what it removes need not be folded.
      for (const kind of ['job', 'stream'] as const)
        more = (await retire(db, kind, { retention, expired }, report, outOfTime)) || more;
      more = (await removeUploads(db, report, outOfTime)) || more;
      more = (await fold(db, log, report, outOfTime)) || more;
    } finally {
      if (Object.values(report).some((n) => n > 0))
        log.info({ ...report, more, durationMs: Math.round(performance.now() - started) }, 'swept');
    }
    return { report, more };
  });
}

export function emptyReport(): SweepReport {
  return {
    foldedStreams: 0,
    segmentsBefore: 0,
    segmentsAfter: 0,
    expiredStreams: 0,
    removedJobs: 0,
    removedUploads: 0,
    failedFolds: 0,
  };
}

/** Adds what one more round did. */
export function addReport(sum: SweepReport, report: SweepReport): void {
  for (const name of Object.keys(sum) as (keyof SweepReport)[]) sum[name] += report[name];
}

/** @returns whether time ran out before there was nothing left */
async function retire(
  db: Kysely<Database>,
  kind: RetentionKind,
  { retention, expired }: Pick<SweeperOptions, 'retention' | 'expired'>,
  report: SweepReport,
  outOfTime: () => boolean,
): Promise<boolean> {
  const count = ({ seen, removed, gone }: { seen: number; removed: number; gone: readonly RemovedJob[] }) => {
    expired(gone);
    report[kind === 'job' ? 'removedJobs' : 'expiredStreams'] += removed;
    return seen === BATCH;
  };
  do {
    if (outOfTime()) return true;
  } while (count(await sweepLater(db, kind, retention, BATCH)));
  for (const tenant of await findTenantsToSweep(db, kind, retention)) {
    do {
      if (outOfTime()) return true;
    } while (count(await sweepAlong(db, kind, tenant, retention, BATCH)));
  }
  return false;
}

/** @returns whether time ran out before there was nothing left */
async function removeUploads(db: Kysely<Database>, report: SweepReport, outOfTime: () => boolean): Promise<boolean> {
  for (;;) {
    if (outOfTime()) return true;
    const removed = await sweepUploads(db, UPLOADS);
    report.removedUploads += removed;
    if (removed < UPLOADS) return false;
  }
}

/** @returns whether time ran out before every stream was tried */
async function fold(
  db: Kysely<Database>,
  log: Logger,
  report: SweepReport,
  outOfTime: () => boolean,
): Promise<boolean> {
  // Past those that are locked just now: the next round tries them again.
  for (let after: string | undefined; ; ) {
    const streams = await findUnfolded(db, after, BATCH);
    for (const streamId of streams) {
      if (outOfTime()) return true;
      try {
        const folded = await foldStream(db, streamId);
        if (folded === undefined) continue;
        report.foldedStreams++;
        report.segmentsBefore += folded.before;
        report.segmentsAfter += folded.after;
      } catch (err) {
        if (isTransient(err)) throw err;
        log.error({ err, streamId }, 'stream stays unfolded: Postgres refused it');
        report.failedFolds++;
        await forgetFold(db, streamId);
      }
    }
    if (streams.length < BATCH) return false;
    after = streams.at(-1);
  }
}
