/** Gives rows to BullMQ. What it fails to give, the reconciler gives later. */
import { setTimeout as delay } from 'node:timers/promises';
import { type JobsOptions, Queue } from 'bullmq';
import { Cluster } from 'ioredis';
import { crashPoint } from '../crash-points.ts';
import type { JobSource } from '../db/jobs/source.ts';
import type { TransitionMaker } from '../db/jobs/states.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import type { Logger } from '../log.ts';
import type { RedisConnection } from '../redis/pubsub.ts';
import { Batcher } from '../util/batcher.ts';
import { FairOrder } from './fair-order.ts';
import { idAgain, nameAgain, optionsAgain } from './foreign-job.ts';
import { isAsDispatched, toJobData } from './job-data.ts';
import { queueErrorLevel } from './queue-errors.ts';

/** How long an enqueue waits for Redis before it leaves dispatching to the reconciler. */
const DISPATCH_WAIT_MS = 500;

/** A job that is moving to the delayed ones is asked for again after this time, then after twice that, and so on. */
const DELIVER_AGAIN_MS = 5;
const LAST_DELIVER_MS = 640;

const MAX_BULK = 1_000;

interface DispatcherOptions {
  redis: RedisConnection;
  /** Of what the fleet itself keeps in Redis. */
  prefix: string;
  /** What BullMQ puts before the keys of a queue. */
  prefixOf(queue: string): string;
  rows: RowAccess;
  /** BullMQ has taken a row's job. Must not throw. */
  dispatched(row: DispatchRow, by: TransitionMaker): void;
  /** Of tenants, for the order of a queue in which several wait; undefined: the order of enqueues. */
  findWeights: (() => Promise<ReadonlyMap<string, number>>) | undefined;
  log: Logger;
}

/** What a row keeps of a job that another BullMQ client added. */
interface RowAccess {
  /** JSON text of its data; undefined where the row is gone. */
  findInput(id: string): Promise<string | undefined>;
  /** Says which BullMQ job delivers it from now on; null: one of the fleet. */
  setSource(id: string, source: JobSource | null): Promise<void>;
}

/** A row that BullMQ will not run. */
export interface MissingRow extends DispatchRow {
  /** BullMQ knew nothing of it a moment ago: it need not be asked again. */
  absent?: boolean;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  /** Jobs given to Redis that it has not answered in time. While there is one, no enqueue waits for it. */
  #late = 0;
  readonly #queues = new Map<string, QueueEntry>();
  /** Queues of other BullMQ clients that have a prefix of their own, by prefix and name. */
  readonly #foreign = new Map<string, QueueEntry>();

  readonly #order: FairOrder | undefined;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    const { findWeights, redis } = options;
    if (findWeights !== undefined) this.#order = new FairOrder({ findWeights, redis });
  }

  /** Those of the fleet's own prefix. */
  get queues(): Queue[] {
    return [...this.#queues.values()].map(({ queue }) => queue);
  }

  /** The queue that a row's deliveries come from. */
  queueOf(row: Pick<DispatchRow, 'queue' | 'source'>): Queue {
    return this.#entryOf(row).queue;
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
  async dispatch(row: DispatchRow, by: TransitionMaker): Promise<boolean> {
    if (!this.#mayTake()) return false;
    const { promise: late, resolve } = Promise.withResolvers<false>();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.#late++;
      resolve(false);
    }, DISPATCH_WAIT_MS);
    const given = row.source === undefined ? this.#entry(row.queue).adds.call(row) : this.#addAgain(row, row.source);
    const added = given
      .then(
        () => {
          this.#options.dispatched(row, by);
          return true;
        },
        (err: unknown) => {
          this.#options.log[queueErrorLevel(err)]({ err, jobId: row.id }, 'dispatch failed; the reconciler will do it');
          return false;
        },
      )
      .finally(() => {
        clearTimeout(timer);
        if (isLate) this.#late--;
      });
    return Promise.race([added, late]);
  }

  /**
   * Makes BullMQ run a row again whatever it holds under its id: a failed job is retried
   * (its history stays), a finished one replaced, a waiting or running one left.
   *
   * The retry starts BullMQ's count of attempts anew. A delivery with a higher count than
   * the one that failed is a person's retry and redrives; should the row have failed a moment
   * ago, this one must only repeat the failure.
   */
  async redispatch(row: MissingRow, by: TransitionMaker): Promise<boolean> {
    if (row.absent === true) return this.dispatch(row, by);
    const { queue } = this.#entryOf(row);
    const job = await queue.getJob(bullIdOf(row)).catch(async (err: unknown) => {
      // What cannot be read is no job; it is in the way of the one that the row gives.
      if (!(err instanceof SyntaxError || err instanceof TypeError || /WRONGTYPE/.test(String(err)))) throw err;
      await this.#options.redis.del(queue.toKey(bullIdOf(row)));
      return undefined;
    });
    if (job === undefined || isAnother(row, job.timestamp)) return this.dispatch(row, by);
    const state = await job.getState();
    // A job of another client is replaced only if it must be: flows hang on it, and listeners wait for it.
    if (
      (state === 'failed' && row.delayMs <= 0 && isAsDispatched(row, job)) ||
      (state === 'completed' && row.source !== undefined)
    ) {
      await job.retry(state, { resetAttemptsMade: true });
      this.#options.dispatched(row, by);
      return true;
    }
    // In no list at all: evicted or lost from there, while its hash was not. Or not what was dispatched: it is refused.
    if (state === 'completed' || state === 'failed' || state === 'unknown') await job.remove();
    crashPoint('redispatch.removed');
    return this.dispatch(row, by);
  }

  /**
   * Has BullMQ deliver a job now that it keeps for later, or that is on its way there. What it has lost is added again.
   * Never throws: the reconciler finds what is due and not delivered.
   */
  async deliverNow(row: DispatchRow): Promise<void> {
    try {
      const { queue } = this.#entryOf(row);
      for (let waitMs = DELIVER_AGAIN_MS; waitMs <= LAST_DELIVER_MS; waitMs *= 2) {
        const job = await queue.getJob(bullIdOf(row));
        if (job === undefined) {
          await this.dispatch(row, 'worker');
          return;
        }
        const promoted = await job.promote().then(
          () => true,
          () => false,
        );
        // A delivery of it is being given back at this moment.
        if (promoted || (await job.getState()) !== 'active') return;
        await delay(waitMs, undefined, { ref: false });
      }
    } catch (err) {
      this.#options.log[queueErrorLevel(err)]({ err, jobId: row.id }, 'job not delivered; the reconciler will do it');
    }
  }

  /** Promotes delayed jobs. Those no longer delayed are left. @returns how many were delayed */
  async promote(queue: Queue, ids: readonly string[]): Promise<number> {
    const done = await Promise.all(
      ids.map(async (id) => {
        const job = await queue.getJob(id);
        return job?.promote().then(
          () => true,
          () => false,
        );
      }),
    );
    return done.filter((promoted) => promoted === true).length;
  }

  /**
   * Which Redis this is, and whether it is the one that `markSwept` was last called for: not
   * after a flush, a restart or a failover. Undefined while Redis is unreachable.
   */
  async identify(): Promise<{ runId: string; swept: boolean } | undefined> {
    const { redis } = this.#options;
    if (redis.status !== 'ready') return undefined;
    const nodes = redis instanceof Cluster ? redis.nodes('master') : [redis];
    const [mark, ...infos] = await Promise.all([
      redis.get(this.#sweptKey),
      ...nodes.map((node) => node.info('server')),
    ]);
    const runId = infos
      .map((info) => /^run_id:(\w+)/m.exec(info ?? '')?.[1] ?? 'unknown')
      .sort()
      .join('+');
    return { runId, swept: mark === runId };
  }

  async markSwept(runId: string): Promise<void> {
    await this.#options.redis.set(this.#sweptKey, runId);
  }

  get #sweptKey(): string {
    return `${this.#options.prefix}:swept`;
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#queues.values(), ...this.#foreign.values()].map(({ queue }) =>
        queue.close().catch((err: unknown) => this.#options.log.debug({ err }, 'queue did not close')),
      ),
    );
  }

  #mayTake(): boolean {
    const { status } = this.#options.redis;
    return this.#late === 0 && (status === 'ready' || status === 'connecting' || status === 'connect');
  }

  /** Adds a job of another BullMQ client to its queue again, with the data and options it had. */
  async #addAgain(row: DispatchRow, source: JobSource): Promise<void> {
    const { rows } = this.#options;
    // A job that `defineJob` knows has its input in the row: any delivery of the fleet's runs it.
    if (row.keyScope === undefined || row.keyScope === '') {
      await this.#entry(row.queue).adds.call(row);
      return rows.setSource(row.id, null);
    }
    const data = await rows.findInput(row.id);
    if (data === undefined) return;
    const { queue } = this.#entryOf(row);
    const options = optionsAgain(row, source);
    try {
      await queue.add(nameAgain(row.name), JSON.parse(data), options);
    } catch (error) {
      // After a flush its flow is gone; the job itself must not be.
      if (options.parent === undefined || !/parent/i.test((error as Error).message)) throw error;
      const { parent: _gone, ...alone } = options;
      await queue.add(nameAgain(row.name), JSON.parse(data), alone);
    }
    const id = idAgain(row, source);
    if (id !== source.id) await rows.setSource(row.id, { ...source, id });
  }

  #entryOf({ queue, source }: Pick<DispatchRow, 'queue' | 'source'>): QueueEntry {
    if (source === undefined || source.prefix === this.#options.prefixOf(source.queue)) return this.#entry(queue);
    const place = `${source.prefix}\n${source.queue}`;
    let entry = this.#foreign.get(place);
    if (entry === undefined) {
      entry = this.#open(source.queue, source.prefix);
      this.#foreign.set(place, entry);
    }
    return entry;
  }

  #entry(name: string): QueueEntry {
    let entry = this.#queues.get(name);
    if (entry === undefined) {
      entry = this.#open(name, this.#options.prefixOf(name));
      this.#queues.set(name, entry);
    }
    return entry;
  }

  #open(name: string, prefix: string): QueueEntry {
    const queue = new Queue(name, { connection: this.#options.redis, prefix });
    queue.on('error', (err) => this.#options.log[queueErrorLevel(err)]({ err, queue: name }, 'BullMQ queue error'));
    const adds = new Batcher<DispatchRow, void>({
      run: async (rows) => {
        const [only] = rows;
        const priorities = await this.#order?.prioritiesOf(queue, rows);
        const optionsOf = (row: DispatchRow, i: number) => toOptions(row, priorities?.[i] ?? row.options.priority);
        if (rows.length === 1 && only !== undefined) await queue.add(only.name, toJobData(only), optionsOf(only, 0));
        else
          await queue.addBulk(
            rows.map((row, i) => ({ name: row.name, data: toJobData(row), opts: optionsOf(row, i) })),
          );
        return rows.map(() => undefined);
      },
      maxBatch: MAX_BULK,
      maxInFlight: 2,
    });
    return { queue, adds };
  }
}

interface QueueEntry {
  queue: Queue;
  /** Of jobs of the fleet. */
  adds: Batcher<DispatchRow, void>;
}

/** BullMQ's id of the job that delivers a row. */
export function bullIdOf({ id, source }: Pick<DispatchRow, 'id' | 'source'>): string {
  return source?.id ?? id;
}

/** Whether a job under a row's id in BullMQ is another one: numbers start at 1 again after a flush. */
export function isAnother({ source }: Pick<DispatchRow, 'source'>, timestamp: number): boolean {
  return source !== undefined && source.timestamp !== timestamp;
}

function toOptions(row: DispatchRow, priority: number): JobsOptions {
  return {
    jobId: row.id,
    // Left out where they are BullMQ's defaults: see JobData.
    ...(priority === 0 ? {} : { priority }),
    ...(row.delayMs < 0.5 ? {} : { delay: Math.round(row.delayMs) }),
    // Shown in Bull Board; whether and when a job is retried, its row decides.
    attempts: row.options.attempts,
    // As BullMQ's own telemetry writes it, so that what reads a job in Redis continues the trace.
    ...(row.options.trace === undefined ? {} : { telemetry: { metadata: JSON.stringify(row.options.trace) } }),
  };
}
