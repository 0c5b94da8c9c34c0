/** Gives rows to BullMQ. What it fails to give, the reconciler gives later. */
import { type JobsOptions, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { crashPoint } from '../crash-points.ts';
import type { DispatchRow } from '../db/jobs.ts';
import { isTransient } from '../db/transient.ts';
import { Batcher } from '../journal/batcher.ts';
import type { Logger } from '../log.ts';

/** What a BullMQ job of ours carries; the input stays in Postgres. */
export interface JobData {
  jobId: string;
  tenant: string;
  name: string;
  key: string | null;
  /** Only where the job may run while Postgres is away. */
  input?: unknown;
}

/** How long finished jobs stay visible in BullMQ; the truth about them is in Postgres. */
const KEEP_COMPLETED = { age: 24 * 3600, count: 5_000 };
const KEEP_FAILED = { age: 7 * 24 * 3600, count: 50_000 };

/** How long an enqueue waits for Redis before it leaves dispatching to the reconciler, ms. */
const DISPATCH_WAIT_MS = 2_000;

const MAX_BULK = 1_000;

export interface DispatcherOptions {
  redis: Redis;
  prefix: string;
  log: Logger;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #queues = new Map<string, { queue: Queue; adds: Batcher<DispatchRow, void> }>();

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  get queues(): Queue[] {
    return [...this.#queues.values()].map(({ queue }) => queue);
  }

  /** Makes a queue known, so that it shows in `queues` before its first job. */
  queue(name: string): Queue {
    return this.#entry(name).queue;
  }

  /**
   * Adds a row's job to its queue. BullMQ keeps one job an id, so doing it again is harmless.
   *
   * @returns false when Redis did not take it in time
   */
  async dispatch(row: DispatchRow): Promise<boolean> {
    if (
      this.#options.redis.status !== 'ready' &&
      this.#options.redis.status !== 'connecting' &&
      this.#options.redis.status !== 'connect'
    )
      return false;
    const { promise: late, resolve } = Promise.withResolvers<false>();
    const timer = setTimeout(() => resolve(false), DISPATCH_WAIT_MS);
    const added = this.#entry(row.queue)
      .adds.call(row)
      .then(
        () => true,
        (err: unknown) => {
          this.#options.log.warn({ err, jobId: row.id }, 'dispatch failed; the reconciler will do it');
          return false;
        },
      );
    try {
      return await Promise.race([added, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Makes BullMQ run a row again whatever it holds under its id: a failed job is retried
   * (its history stays), a finished one replaced, a waiting or running one left.
   *
   * The retry starts BullMQ's count of attempts anew. A delivery with a higher count than
   * the one that failed is a person's retry and redrives; should the row have failed a moment
   * ago, this one must only repeat the failure.
   */
  async redispatch(row: DispatchRow): Promise<boolean> {
    const { queue } = this.#entry(row.queue);
    const job = await queue.getJob(row.id);
    const state = await job?.getState();
    if (job !== undefined && state === 'failed') {
      await job.retry('failed', { resetAttemptsMade: true });
      return true;
    }
    if (job !== undefined && state === 'completed') await job.remove();
    crashPoint('redispatch.removed');
    return this.dispatch(row);
  }

  /**
   * Of rows that wait to run, those that BullMQ will not run: it does not have them, or has
   * them as finished. One round trip; none of them while Redis is away, which gets them later.
   */
  async findMissing(rows: readonly DispatchRow[]): Promise<DispatchRow[]> {
    if (rows.length === 0 || this.#options.redis.status !== 'ready') return [];
    const pipeline = this.#options.redis.pipeline();
    for (const row of rows) pipeline.hmget(this.#entry(row.queue).queue.toKey(row.id), 'timestamp', 'finishedOn');
    const answers = (await pipeline.exec()) ?? [];
    return rows.filter((_, i) => {
      const [error, fields] = answers[i] ?? [];
      if (error) throw error;
      const [timestamp, finishedOn] = fields as [string | null, string | null];
      return timestamp === null || finishedOn !== null;
    });
  }

  async close(): Promise<void> {
    await Promise.all(
      this.queues.map((queue) =>
        queue.close().catch((err: unknown) => this.#options.log.debug({ err }, 'queue did not close')),
      ),
    );
  }

  #entry(name: string): { queue: Queue; adds: Batcher<DispatchRow, void> } {
    let entry = this.#queues.get(name);
    if (entry === undefined) {
      const queue = new Queue(name, { connection: this.#options.redis, prefix: this.#options.prefix });
      // Of an outage the connection tells once.
      queue.on('error', (err) =>
        this.#options.log[isTransient(err) ? 'debug' : 'warn']({ err, queue: name }, 'BullMQ queue error'),
      );
      const adds = new Batcher<DispatchRow, void>({
        run: async (rows) => {
          const [only] = rows;
          if (rows.length === 1 && only !== undefined) await queue.add(only.name, toData(only), toOptions(only));
          else await queue.addBulk(rows.map((row) => ({ name: row.name, data: toData(row), opts: toOptions(row) })));
          return rows.map(() => undefined);
        },
        maxBatch: MAX_BULK,
        maxInFlight: 2,
      });
      entry = { queue, adds };
      this.#queues.set(name, entry);
    }
    return entry;
  }
}

function toData(row: DispatchRow): JobData {
  const data = { jobId: row.id, tenant: row.tenant, name: row.name, key: row.key };
  return row.input === undefined ? data : { ...data, input: row.input };
}

function toOptions(row: DispatchRow): JobsOptions {
  return {
    jobId: row.id,
    priority: row.options.priority,
    delay: Math.max(0, Math.round(row.delayMs)),
    // Shown in Bull Board; whether and when a job is retried, its row decides.
    attempts: row.options.attempts,
    backoff: { type: row.options.backoff.type, delay: row.options.backoff.delayMs },
    removeOnComplete: KEEP_COMPLETED,
    removeOnFail: KEEP_FAILED,
  };
}
