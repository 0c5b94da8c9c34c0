/**
 * What a person does to queues and to jobs that BullMQ shows, of all tenants: Bull Board's buttons.
 *
 * The row in Postgres decides and changes first; BullMQ's copy follows. A process that dies between
 * the two leaves a disagreement that a delivery, the reconciler or the doctor ends. Jobs of other
 * BullMQ clients have no row until they run: until then they are BullMQ's alone.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { Job, type JobsOptions, type Queue } from 'bullmq';
import { z } from 'zod';
import { isTerminalStatus } from '../db/jobs/states.ts';
import type { UnfinishedCursor } from '../db/jobs/unfinished.ts';
import {
  cancelWaiting,
  findForeignRows,
  findShownRows,
  findWaitingOf,
  reprioritiseWaiting,
  rescheduleWaiting,
  type ShownRow,
} from '../db/operator.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { readJobData } from '../enqueue/job-data.ts';
import { CancelledError, OncefleetError, toStoredFailure } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { parseOptions, wholeNumber } from '../options.ts';
import { finishJob } from '../runtime/finish-job.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { isUuid } from '../util/uuid.ts';
import type { EnqueueOptions, JobHandle } from './types.ts';

/** Jobs that are read, cancelled and removed together. */
const PAGE = 200;

/** Failed jobs that are retried together. */
const RETRIES_AT_ONCE = 20;

/** Refusals that are told word for word when many jobs are retried. */
const MAX_TOLD = 3;

/** Ended jobs that BullMQ removes in one script. */
const CLEANED_AT_ONCE = 1_000;

/** How often an end looks again at rows that are locked; a quarter of a second in all. */
const END_ROUNDS = 6;

/** Children of a flow that are looked after at once; more are refused. */
const MAX_CHILDREN = 10_000;

/** Pause between two looks for queues that rows name, while somebody looks at the board, ms. */
const LOOK_FOR_QUEUES_MS = 10_000;

/** BullMQ's own bound. */
const MAX_PRIORITY = 2_097_151;

/** A hundred years; far more is no date of Postgres's. */
const MAX_DELAY_MS = 3_155_760_000_000;

/** The name that Bull Board sends for an empty field. */
const NO_NAME = '__default__';

/** States in which a job waits for its turn. */
const WAITING_STATES: ReadonlySet<string> = new Set([
  'waiting',
  'prioritized',
  'delayed',
  'waiting-children',
  'unknown',
]);

/** Sets of a queue by BullMQ's names for them. `paused` is where older versions of BullMQ keep what waits. */
export type QueueSet = 'wait' | 'paused' | 'prioritized' | 'delayed' | 'waiting-children' | 'completed' | 'failed';

const LISTS: ReadonlySet<QueueSet> = new Set(['wait', 'paused']);

const addOptionsSchema = z.strictObject({
  delay: wholeNumber({ min: 0, max: MAX_DELAY_MS }).optional(),
  priority: wholeNumber({ min: 0, max: MAX_PRIORITY }).optional(),
});

export interface OperatorOptions {
  runtime: Runtime;
  jobs: ReadonlyMap<string, AnyJobDefinition>;
  enqueue(job: string, input: unknown, options: EnqueueOptions): Promise<JobHandle>;
  redrive(id: string, options: { tenant: string }): Promise<void>;
}

/** A BullMQ job and the row that it is about. */
interface Delivery {
  /** `own`: the fleet's, under the id of its row; `copy`: made of one of those; `foreign`: another client's. */
  kind: 'own' | 'copy' | 'foreign';
  /** Of its row, if that is known by an id. */
  rowId: string | undefined;
  row: ShownRow | undefined;
}

type Ending = 'ended' | 'over' | 'running';

export class Operator {
  readonly #options: OperatorOptions;

  constructor(options: OperatorOptions) {
    this.#options = options;
  }

  /** Queues that rows name and no loaded definition has; found again from time to time. */
  otherQueues(): Promise<readonly Queue[]> {
    const known = [...this.#options.jobs.values()].map((job) => job.queue);
    return this.#options.runtime.otherQueues.find(known, LOOK_FOR_QUEUES_MS);
  }

  /** What BullMQ puts before the keys of a queue of the fleet. */
  prefixOf(queue: string): string {
    return this.#options.runtime.queuePrefix(queue);
  }

  /**
   * A job of a queue. BullMQ takes any id, also one that names another key of the queue (`meta`,
   * `delayed`): of those it would read, and remove, what is no job.
   */
  async findJob(queue: Queue, id: string): Promise<Job | undefined> {
    try {
      if ((await this.#options.runtime.redis.hget(queue.toKey(id), 'timestamp')) === null) return undefined;
    } catch (error) {
      if (error instanceof Error && error.message.startsWith('WRONGTYPE')) return undefined;
      throw error;
    }
    return queue.getJob(id);
  }

  pause(queue: Queue, by: string): Promise<void> {
    return this.#options.runtime.pauses.pause(queue, by);
  }

  resume(queue: Queue): Promise<void> {
    return this.#options.runtime.pauses.resume(queue);
  }

  /**
   * Takes a job out of BullMQ. One that waits is cancelled; of one that has ended, the row stays.
   *
   * @throws OncefleetError ACTION_REFUSED somebody runs it; JOB_NOT_FOUND
   */
  async remove(queue: Queue, id: string): Promise<void> {
    const { job, delivery } = await this.#find(queue, id);
    const state = await job.getState();
    if (state === 'active') throw refusedAsRunning(id);
    if (!WAITING_STATES.has(state)) return translated(job.remove());
    if (delivery.kind === 'foreign') await this.#endChildren(queue, [job]);
    const ending = await this.#endOf(delivery);
    if (ending === 'running' && delivery.kind === 'own') throw refusedAsRunning(id);
    // Cancelled while a worker was fetching it: that delivery finds it so, and ends.
    await translated(job.remove()).catch((error: unknown) => {
      if (ending !== 'ended') throw error;
    });
  }

  /** Takes all jobs of some sets out of BullMQ, each as `remove` does, in batches. What somebody runs stays. */
  async removeAll(queue: Queue, sets: readonly QueueSet[]): Promise<void> {
    for (const set of sets) {
      if (set === 'completed' || set === 'failed') {
        // Their rows have ended: BullMQ's own way, which reads no data.
        while ((await queue.clean(0, CLEANED_AT_ONCE, set)).length === CLEANED_AT_ONCE);
        continue;
      }
      await this.#each(queue, set, async (jobs) => {
        const deliveries = await this.#deliveriesOf(queue, jobs);
        await this.#endChildren(
          queue,
          jobs.filter((_, i) => deliveries[i]?.kind === 'foreign'),
        );
        const endings = await this.#end(rowsToEnd(deliveries));
        const free = jobs.filter((_, i) => {
          const { kind, row } = deliveries[i] as Delivery;
          return kind !== 'own' || row === undefined || endings.get(row.id) !== 'running';
        });
        return jobs.length - free.length + (await this.#removeFromBull(queue, free));
      });
    }
  }

  /**
   * Removes a queue from Redis; its jobs that wait are cancelled, also those that Redis has lost.
   * What runs goes on, and is looked after by its row. The queue stays paused.
   *
   * @throws Error of BullMQ: there are active jobs, and no `force`
   */
  async obliterate(queue: Queue, { force }: { force: boolean }): Promise<void> {
    const { pauses, db } = this.#options.runtime;
    if (!force && (await queue.getActiveCount()) > 0) throw new Error('Cannot obliterate queue with active jobs');
    await pauses.align([queue]);
    await this.removeAll(queue, ['delayed', 'wait', 'paused', 'prioritized', 'waiting-children']);
    const names = this.#definitionsOf(queue).map((job) => job.name);
    let after: UnfinishedCursor | undefined;
    if (names.length > 0) {
      do {
        const page = await findWaitingOf(db.kysely, { queue: queue.name, names }, { after, limit: 5 * PAGE });
        for (let i = 0; i < page.rows.length; i += PAGE) await this.#end(page.rows.slice(i, i + PAGE));
        after = page.end;
      } while (after !== undefined);
    }
    await queue.obliterate({ force });
    await pauses.align([queue]);
  }

  /**
   * Runs a failed job again: its row is redriven.
   *
   * @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND
   */
  async retry(queue: Queue, id: string, state: 'completed' | 'failed'): Promise<void> {
    const { job, delivery } = await this.#find(queue, id);
    await this.#retry(job, delivery, state);
  }

  /** @returns how many are retried, how many are not, and why the first of those are not */
  async retryAll(queue: Queue): Promise<{ retried: number; refused: number; why: string[] }> {
    const answer = { retried: 0, refused: 0, why: [] as string[] };
    await this.#each(queue, 'failed', async (jobs) => {
      const deliveries = await this.#deliveriesOf(queue, jobs);
      const before = answer.refused;
      for (let i = 0; i < jobs.length; i += RETRIES_AT_ONCE) {
        const some = jobs.slice(i, i + RETRIES_AT_ONCE);
        const tried = await Promise.allSettled(
          some.map((job, at) => this.#retry(job, deliveries[i + at] as Delivery, 'failed')),
        );
        for (const one of tried) {
          if (one.status === 'fulfilled') answer.retried++;
          else if (one.reason instanceof OncefleetError && one.reason.code === 'ACTION_REFUSED') {
            answer.refused++;
            if (answer.why.length < MAX_TOLD) answer.why.push(one.reason.message);
          } else throw one.reason;
        }
      }
      return answer.refused - before;
    });
    return answer;
  }

  /** Has a delayed job run now. @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND */
  async promote(queue: Queue, id: string): Promise<void> {
    const { job, delivery } = await this.#find(queue, id);
    const { row } = delivery;
    if (row !== undefined && isOver(row)) throw refusedAsOver(id, row, 'nothing is left to run');
    if (row?.status === 'pending' && delivery.kind !== 'copy') await this.#reschedule([row.id], 0);
    await translated(job.promote());
  }

  /** Has all delayed jobs run now. */
  async promoteAll(queue: Queue): Promise<void> {
    await this.#each(queue, 'delayed', async (jobs) => {
      const deliveries = await this.#deliveriesOf(queue, jobs);
      await this.#reschedule(
        rowsToEnd(deliveries)
          .filter((row) => row.status === 'pending')
          .map((row) => row.id),
        0,
      );
      const promoted = await Promise.all(
        jobs.map((job) =>
          job.promote().then(
            () => true,
            () => false,
          ),
        ),
      );
      return promoted.filter((done) => !done).length;
    });
  }

  /** Changes when a delayed job runs. @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND, INPUT_INVALID */
  async reschedule(queue: Queue, id: string, delayMs: number): Promise<void> {
    parseOptions('Reschedule', addOptionsSchema, { delay: Math.round(delayMs) });
    const { job, delivery } = await this.#find(queue, id);
    const row = this.#waitingRow(id, delivery, 'it cannot be rescheduled');
    if (row === undefined) return translated(job.changeDelay(Math.round(delayMs)));
    if (!(await this.#reschedule([row.id], delayMs)).has(row.id)) throw refusedAsRunning(id);
    await translated(job.changeDelay(Math.round(delayMs))).catch(async (error: unknown) => {
      // It became due meanwhile: BullMQ has handed it out, and so it may run.
      await this.#reschedule([row.id], 0);
      throw error;
    });
  }

  /** @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND, INPUT_INVALID */
  async reprioritise(queue: Queue, id: string, priority: number): Promise<void> {
    parseOptions('Priority', addOptionsSchema, { priority });
    const { job, delivery } = await this.#find(queue, id);
    const row = this.#waitingRow(id, delivery, 'its priority cannot be changed');
    if (row !== undefined && !(await reprioritiseWaiting(this.#options.runtime.db.kysely, row.id, priority)))
      throw refusedAsRunning(id);
    await translated(job.changePriority({ priority }));
  }

  /** @throws OncefleetError ACTION_REFUSED it is a job of the fleet, or has its outcome; JOB_NOT_FOUND */
  async updateData(queue: Queue, id: string, data: unknown): Promise<void> {
    const { job, delivery } = await this.#find(queue, id);
    if (delivery.kind !== 'foreign')
      throw refused(
        `Job ${id} cannot be edited: its input is kept in Postgres and belongs to its key. Enqueue a new job with the other input; this one can be retried as it is`,
        id,
      );
    refuseMark(data);
    if (data === undefined) throw refused('There is no data: send it as jobData', id);
    const { row } = delivery;
    if (row !== undefined && (row.status === 'completed' || row.status === 'cancelled'))
      throw refusedAsOver(id, row, 'its data cannot be edited');
    await translated(job.updateData(data));
  }

  /** Removes the children that a job of a flow waits for; those that wait are cancelled. @throws OncefleetError */
  async removeUnprocessedChildren(queue: Queue, id: string): Promise<void> {
    const { job } = await this.#find(queue, id);
    await this.#endChildren(queue, [job]);
    await translated(job.removeUnprocessedChildren());
  }

  /**
   * Adds a job: in a queue of definitions as `enqueue` does, with the `idempotencyKey` and `tenant` of
   * its data; in a queue of another client as BullMQ does.
   *
   * @returns what BullMQ has of it, if it has it by now
   * @throws OncefleetError JOB_NAME_UNKNOWN, INPUT_INVALID, KEY_INVALID, KEY_MISMATCH, ACTION_REFUSED
   */
  async add(
    queue: Queue,
    { name, data, options }: { name: string; data: unknown; options: Record<string, unknown> },
  ): Promise<{ id: string; job: Job | undefined }> {
    refuseMark(data);
    if (!this.#isOfFleet(queue)) return this.#addForeign(queue, name, data, options as JobsOptions);
    this.requireName(queue, name);
    const { delay: delayMs, priority } = parseOptions('Job options', addOptionsSchema, options);
    const { key, tenant, input } = splitData(data);
    const { enqueue, runtime } = this.#options;
    const handle = await enqueue(name, input, {
      tenant: tenant ?? runtime.settings.tenant,
      ...(key === undefined ? {} : { key }),
      ...(delayMs === undefined ? {} : { delayMs }),
      ...(priority === undefined ? {} : { priority }),
    });
    if (handle.outcome !== 'created')
      throw refused(
        `Nothing was added: job ${handle.id} has this key and input already, and is ${handle.status}`,
        handle.id,
      );
    return { id: handle.id, job: await queue.getJob(handle.id) };
  }

  /** Refuses a name that no worker of a queue of definitions knows. @throws OncefleetError JOB_NAME_UNKNOWN */
  requireName(queue: Queue, name: string): void {
    if (!this.#isOfFleet(queue)) return;
    const names = this.#definitionsOf(queue).map((job) => job.name);
    if (names.includes(name)) return;
    const given = name === '' || name === NO_NAME ? 'The job needs a name' : `No job named "${name.slice(0, 100)}"`;
    throw new OncefleetError(
      'JOB_NAME_UNKNOWN',
      names.length === 0
        ? `This process has no definition of a job of queue ${queue.name}: load it (ONCEFLEET_JOBS) to add one here`
        : `${given}: queue ${queue.name} runs ${names.join(', ')}`,
    );
  }

  async #addForeign(
    queue: Queue,
    name: string,
    data: unknown,
    options: JobsOptions,
  ): Promise<{ id: string; job: Job }> {
    const { jobId } = options;
    // BullMQ keeps the first and says nothing.
    if (jobId !== undefined && (await queue.getJob(String(jobId))) !== undefined)
      throw refused(`Nothing was added: queue ${queue.name} has a job ${jobId} already`, jobId);
    let job: Job;
    try {
      job = await queue.add(name, data, options);
    } catch (error) {
      // What it says of options that it does not take; it has no class for that.
      if (!(error instanceof Error) || 'errno' in error || 'command' in error) throw error;
      throw refused(`BullMQ does not take this job: ${error.message.slice(0, 300)}`, undefined, error);
    }
    return { id: job.id ?? '', job };
  }

  async #retry(job: Job, { kind, row }: Delivery, state: 'completed' | 'failed'): Promise<void> {
    const id = job.id as string;
    if (row === undefined) {
      if (kind !== 'foreign')
        throw refused(`Job ${id} cannot be retried: Postgres does not know it any more. Remove it here`, id);
      return translated(job.retry(state));
    }
    // Without a key it means what BullMQ means by it.
    if (state === 'completed' && kind === 'foreign' && row.keyless) return translated(job.retry(state));
    if (state === 'completed') throw refusedAsOver(id, row, 'it is not run again; add a new job for that');
    if (row.status === 'cancelled') throw refusedAsOver(id, row, 'it is not run again; add a new job for that');
    if (kind !== 'own') return translated(job.retry(state));
    if (row.status !== 'failed')
      throw refused(
        row.status === 'completed'
          ? `Job ${id} has completed, and its outcome stands. Remove it here: BullMQ gave up on it before that`
          : `Job ${id} is not failed but ${row.status}: it runs without being retried`,
        id,
      );
    await this.#options.redrive(row.id, { tenant: row.tenant }).catch((error: unknown) => {
      if (!(error instanceof OncefleetError) || error.code !== 'JOB_NOT_FAILED') throw error;
      throw refused(error.message, id, error);
    });
  }

  /** The row of a job whose plan is to be changed, if it has one of its own. @throws OncefleetError ACTION_REFUSED */
  #waitingRow(id: string, { kind, row }: Delivery, why: string): ShownRow | undefined {
    if (row === undefined) {
      if (kind === 'foreign') return undefined;
      throw refused(`Postgres does not know job ${id} any more: ${why}. Remove it here`, id);
    }
    if (isOver(row)) throw refusedAsOver(id, row, why);
    if (row.held) throw refused(`Somebody runs job ${id} at present: ${why}`, id);
    return row.status === 'pending' && kind !== 'copy' ? row : undefined;
  }

  #reschedule(ids: readonly string[], delayMs: number): Promise<Set<string>> {
    return rescheduleWaiting(this.#options.runtime.db.kysely, ids, delayMs);
  }

  async #endOf(delivery: Delivery): Promise<Ending> {
    const [row] = rowsToEnd([delivery]);
    return row === undefined ? 'over' : ((await this.#end([row])).get(row.id) ?? 'over');
  }

  /** Cancels jobs that nobody runs. */
  async #end(rows: readonly ShownRow[]): Promise<Map<string, Ending>> {
    const { db, settings, publisher, log } = this.#options.runtime;
    const { resultTtlMs } = settings;
    const endings = new Map<string, Ending>();
    const terminalJson = rowTerminalJson({ status: 'cancelled', result: null, error: null });
    let open = [...new Map(rows.map((row) => [row.id, row])).values()];
    for (let round = 0; open.length > 0; round++) {
      const pending = open.filter((row) => row.status === 'pending');
      const cancelled = await cancelWaiting(
        db.kysely,
        pending.map(({ id }) => ({ id, errorJson: JSON.stringify(toStoredFailure(new CancelledError(id))) })),
        { terminalJson, resultTtlMs },
      );
      publisher.publish(
        cancelled.map(({ id, fence, seq }) => ({
          batch: { streamId: id, fence, firstSeq: seq, events: [terminalJson] },
          end: true,
        })),
      );
      for (const { id } of cancelled) {
        endings.set(id, 'ended');
        log.info({ jobId: id }, 'job cancelled by an operator');
      }
      const locked: string[] = [];
      for (const row of open) {
        if (endings.has(row.id)) continue;
        if (isOver(row)) endings.set(row.id, 'over');
        else if (row.held) endings.set(row.id, 'running');
        else if (row.status === 'running' && (await this.#endAbandoned(row.id))) endings.set(row.id, 'ended');
        else locked.push(row.id);
      }
      if (locked.length === 0) break;
      if (round === END_ROUNDS) {
        for (const id of locked) endings.set(id, 'running');
        break;
      }
      // By a claim, which may make it a running one, or by what ends it just now.
      await delay(2 ** round * 2);
      open = [...(await findShownRows(db.kysely, locked)).values()];
    }
    return endings;
  }

  async #endAbandoned(id: string): Promise<boolean> {
    const { runtime } = this.#options;
    return (await finishJob(runtime, id, { definition: undefined, cancel: 'now' })) !== undefined;
  }

  /** Cancels the children that jobs of flows wait for, which BullMQ removes with them, and theirs. */
  async #endChildren(queue: Queue, parents: readonly Job[]): Promise<void> {
    const { redis, otherQueues } = this.#options.runtime;
    const found = new Set<string>();
    let level = parents.map((job) => queue.toKey(job.id as string));
    while (level.length > 0) {
      const next: string[] = [];
      for (let i = 0; i < level.length; i += PAGE) {
        const children = await Promise.all(
          level.slice(i, i + PAGE).map((key) => redis.smembers(`${key}:dependencies`)),
        );
        for (const key of children.flat()) if (!found.has(key)) next.push(key);
        for (const key of next) found.add(key);
        if (found.size > MAX_CHILDREN)
          throw refused(`The flow has more than ${MAX_CHILDREN} children that wait: remove some of them first`);
      }
      level = next;
    }
    const byQueue = Map.groupBy(found, (key) => key.slice(0, key.lastIndexOf(':')));
    for (const [at, keys] of byQueue) {
      // A name has no colon, a prefix may.
      const split = at.lastIndexOf(':');
      const children = otherQueues.at(at.slice(0, split), at.slice(split + 1));
      for (let i = 0; i < keys.length; i += PAGE) {
        const ids = keys.slice(i, i + PAGE).map((key) => key.slice(at.length + 1));
        const jobs = (await Promise.all(ids.map((id) => Job.fromId(children, id)))).filter((job) => job !== undefined);
        await this.#end(rowsToEnd(await this.#deliveriesOf(children, jobs)));
      }
    }
  }

  /** @returns how many stay: locked by a worker, or the next run of a scheduler */
  async #removeFromBull(queue: Queue, jobs: readonly Job[]): Promise<number> {
    const removed = await Promise.all(
      jobs.map((job) =>
        queue.remove(job.id as string).then(
          (count) => count === 1,
          (error: unknown) => {
            if (isBullRefusal(error)) return false;
            throw error;
          },
        ),
      ),
    );
    return removed.filter((done) => !done).length;
  }

  /**
   * Goes through a set, as long as it is when this starts, in pages.
   *
   * @param act gives back how many jobs of the page are still in the set
   */
  async #each(queue: Queue, set: QueueSet, act: (jobs: readonly Job[]) => Promise<number>): Promise<void> {
    const { redis } = this.#options.runtime;
    const key = queue.toKey(set);
    let stay = 0;
    for (let left = LISTS.has(set) ? await redis.llen(key) : await redis.zcard(key); left > 0; ) {
      const count = Math.min(PAGE, left);
      // The oldest of a list are at its end, and what is added meanwhile is not.
      const ids = LISTS.has(set)
        ? await redis.lrange(key, -stay - count, -stay - 1)
        : await redis.zrange(key, String(stay), String(stay + count - 1));
      if (ids.length === 0) return;
      left -= ids.length;
      const jobs = (await Promise.all(ids.map((id) => queue.getJob(id)))).filter((job) => job !== undefined);
      stay += ids.length - jobs.length + (jobs.length === 0 ? 0 : await act(jobs));
    }
  }

  async #find(queue: Queue, id: string): Promise<{ job: Job; delivery: Delivery }> {
    const job = await this.findJob(queue, id);
    if (job === undefined)
      throw new OncefleetError('JOB_NOT_FOUND', `Queue ${queue.name} has no job ${id.slice(0, 100)} any more`);
    const [delivery] = await this.#deliveriesOf(queue, [job]);
    return { job, delivery: delivery as Delivery };
  }

  async #deliveriesOf(queue: Queue, jobs: readonly Job[]): Promise<Delivery[]> {
    const { db } = this.#options.runtime;
    const marked = jobs.map((job) => readJobData(job)?.jobId);
    const rows = await findShownRows(db.kysely, [
      ...marked.filter((id) => id !== undefined),
      // The mark may have been edited away; the id is the row's for good.
      ...jobs.map((job) => job.id as string).filter((id, i) => marked[i] === undefined && isUuid(id)),
    ]);
    const known = jobs.map((job, i): Delivery | undefined => {
      const rowId = marked[i];
      if (rowId !== undefined) return { kind: rowId === job.id ? 'own' : 'copy', rowId, row: rows.get(rowId) };
      const row = rows.get(job.id as string);
      return row?.name === job.name ? { kind: 'own', rowId: row.id, row } : undefined;
    });
    const foreign = jobs.filter((_, i) => known[i] === undefined);
    const prefix = queue.opts.prefix ?? 'bull';
    const found = await findForeignRows(
      db.kysely,
      foreign.map(({ id, timestamp }) => ({ prefix, queue: queue.name, id: String(id), timestamp })),
    );
    return jobs.map((job, i) => {
      const delivery = known[i];
      if (delivery !== undefined) return delivery;
      const row = found[foreign.indexOf(job)];
      return { kind: 'foreign', rowId: row?.id, row };
    });
  }

  #isOfFleet(queue: Queue): boolean {
    return queue.opts.prefix === this.#options.runtime.queuePrefix(queue.name);
  }

  #definitionsOf(queue: Queue): AnyJobDefinition[] {
    if (!this.#isOfFleet(queue)) return [];
    return [...this.#options.jobs.values()].filter((job) => job.queue === queue.name);
  }
}

/** Rows that end with their BullMQ job: a copy is only one more delivery of its. */
function rowsToEnd(deliveries: readonly Delivery[]): ShownRow[] {
  return deliveries.flatMap(({ kind, row }) => (kind === 'copy' || row === undefined ? [] : [row]));
}

/** As a job of another client says it. */
function splitData(data: unknown): { key: string | undefined; tenant: string | undefined; input: unknown } {
  if (typeof data !== 'object' || data === null || Array.isArray(data))
    return { key: undefined, tenant: undefined, input: data };
  const { idempotencyKey, ...input } = data as Record<string, unknown>;
  const key =
    typeof idempotencyKey === 'number' && Number.isSafeInteger(idempotencyKey)
      ? String(idempotencyKey)
      : typeof idempotencyKey === 'string' && idempotencyKey !== ''
        ? idempotencyKey
        : undefined;
  const { tenant } = input;
  return { key, tenant: typeof tenant === 'string' ? tenant : undefined, input };
}

/** What marks jobs of the fleet would make a job typed by a person a delivery of another one. */
function refuseMark(data: unknown): void {
  if (typeof data !== 'object' || data === null || !('oncefleet' in data)) return;
  throw refused(
    'These data name a job of the fleet by the field `oncefleet`; its input is kept in Postgres. To run that job again, retry it; to run its input anew, add a job with the input (its job record has it)',
  );
}

function isOver(row: ShownRow): boolean {
  return isTerminalStatus(row.status);
}

function refused(message: string, jobId?: string, cause?: unknown): OncefleetError {
  return new OncefleetError('ACTION_REFUSED', message, {
    ...(cause === undefined ? {} : { cause }),
    details: jobId === undefined ? {} : { jobId },
  });
}

function refusedAsRunning(id: string): OncefleetError {
  return refused(
    `Job ${id} is being run by a worker. Wait until it has ended, or cancel it: \`oncefleet cancel ${id}\``,
    id,
  );
}

function refusedAsOver(id: string, row: ShownRow, why: string): OncefleetError {
  const how = { completed: 'has completed', failed: 'has failed', cancelled: 'was cancelled' }[
    row.status as 'completed'
  ];
  return refused(`Job ${id} ${how}, which its row in Postgres keeps: ${why}`, id);
}

/** BullMQ's answer to what a job's state does not allow. */
function isBullRefusal(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  const { code } = error as { code?: unknown };
  return (typeof code === 'number' && code < 0) || error.message.includes('could not be removed because it is locked');
}

async function translated<T>(done: Promise<T>): Promise<T> {
  try {
    return await done;
  } catch (error) {
    if (!isBullRefusal(error)) throw error;
    throw refused(`BullMQ did not do it: ${error.message}. The job has moved on; look at it again`, undefined, error);
  }
}
