/**
 * What a person does to queues and to jobs that BullMQ shows, of all tenants: Bull Board's buttons.
 * One file an operation.
 *
 * The row in Postgres decides and changes first; BullMQ's copy follows. A process that dies between
 * the two leaves a disagreement that a delivery, the reconciler or the doctor ends. Jobs of other
 * BullMQ clients have no row until they run: until then they are BullMQ's alone.
 */
import type { Job, Queue } from 'bullmq';
import { type AddedJob, addJob, requireName } from './add.ts';
import { removeUnprocessedChildren } from './children.ts';
import { findJob } from './deliveries.ts';
import type { OperatorHost } from './host.ts';
import { obliterate } from './obliterate.ts';
import { promoteAll, promoteOne } from './promote.ts';
import { removeAll, removeOne } from './remove.ts';
import { reprioritise, reschedule } from './reschedule.ts';
import { retryAll, retryOne } from './retry.ts';
import type { QueueSet } from './sets.ts';
import { updateData } from './update-data.ts';

/** Pause between two looks for queues that rows name, while somebody looks at the board. */
const LOOK_FOR_QUEUES_MS = 10_000;

export interface Operator {
  /** Queues that rows name and no loaded definition has; found again from time to time. */
  otherQueues(): Promise<readonly Queue[]>;
  /** What BullMQ puts before the keys of a queue of the fleet. */
  prefixOf(queue: string): string;
  /**
   * A job of a queue. BullMQ takes any id, also one that names another key of the queue (`meta`,
   * `delayed`): of those it would read, and remove, what is no job.
   */
  findJob(queue: Queue, id: string): Promise<Job | undefined>;
  /** @param by what pauses it, for people */
  pause(queue: Queue, by: string): Promise<void>;
  resume(queue: Queue): Promise<void>;
  /**
   * Takes a job out of BullMQ. One that waits is cancelled; of one that has ended, the row stays.
   *
   * @throws OncefleetError ACTION_REFUSED somebody runs it; JOB_NOT_FOUND
   */
  remove(queue: Queue, id: string): Promise<void>;
  /** Takes all jobs of some sets out of BullMQ, each as `remove` does, in batches. What somebody runs stays. */
  removeAll(queue: Queue, sets: readonly QueueSet[]): Promise<void>;
  /**
   * Removes a queue from Redis; its jobs that wait are cancelled, also those that Redis has lost.
   * What runs continues, and is looked after by its row. The queue stays paused.
   *
   * @throws Error of BullMQ: there are active jobs, and no `force`
   */
  obliterate(queue: Queue, options: { force: boolean }): Promise<void>;
  /**
   * Runs a failed job again: its row is redriven.
   *
   * @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND
   */
  retry(queue: Queue, id: string, state: 'completed' | 'failed'): Promise<void>;
  /** @returns how many are retried, how many are not, and why the first of those are not */
  retryAll(queue: Queue): Promise<{ retried: number; refused: number; why: string[] }>;
  /** Has a delayed job run now. @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND */
  promote(queue: Queue, id: string): Promise<void>;
  /** Has all delayed jobs run now. */
  promoteAll(queue: Queue): Promise<void>;
  /** Changes when a delayed job runs. @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND, INPUT_INVALID */
  reschedule(queue: Queue, id: string, delayMs: number): Promise<void>;
  /** @throws OncefleetError ACTION_REFUSED, JOB_NOT_FOUND, INPUT_INVALID */
  reprioritise(queue: Queue, id: string, priority: number): Promise<void>;
  /** @throws OncefleetError ACTION_REFUSED it is a job of the fleet, or has its outcome; JOB_NOT_FOUND */
  updateData(queue: Queue, id: string, data: unknown): Promise<void>;
  /** Removes the children that a job of a flow waits for; those that wait are cancelled. @throws OncefleetError */
  removeUnprocessedChildren(queue: Queue, id: string): Promise<void>;
  /**
   * Adds a job: in a queue of definitions as `enqueue` does, with the `idempotencyKey` and `tenant` of
   * its data; in a queue of another client as BullMQ does.
   *
   * @returns what BullMQ has of it, if it has it by now
   * @throws OncefleetError JOB_NAME_UNKNOWN, INPUT_INVALID, KEY_INVALID, KEY_MISMATCH, ACTION_REFUSED
   */
  add(queue: Queue, added: AddedJob): Promise<{ id: string; job: Job | undefined }>;
  /** Refuses a name that no worker of a queue of definitions knows. @throws OncefleetError JOB_NAME_UNKNOWN */
  requireName(queue: Queue, name: string): void;
}

export function createOperator(host: OperatorHost): Operator {
  const { runtime, jobs } = host;
  return {
    otherQueues: () =>
      runtime.otherQueues.find(
        [...jobs.values()].map((job) => job.queue),
        LOOK_FOR_QUEUES_MS,
      ),
    prefixOf: (queue) => runtime.queuePrefix(queue),
    findJob: (queue, id) => findJob(host, queue, id),
    pause: (queue, by) => runtime.pauses.pause(queue, by),
    resume: (queue) => runtime.pauses.resume(queue),
    remove: (queue, id) => removeOne(host, queue, id),
    removeAll: (queue, sets) => removeAll(host, queue, sets),
    obliterate: (queue, options) => obliterate(host, queue, options),
    retry: (queue, id, state) => retryOne(host, queue, id, state),
    retryAll: (queue) => retryAll(host, queue),
    promote: (queue, id) => promoteOne(host, queue, id),
    promoteAll: (queue) => promoteAll(host, queue),
    reschedule: (queue, id, delayMs) => reschedule(host, queue, id, delayMs),
    reprioritise: (queue, id, priority) => reprioritise(host, queue, id, priority),
    updateData: (queue, id, data) => updateData(host, queue, id, data),
    removeUnprocessedChildren: (queue, id) => removeUnprocessedChildren(host, queue, id),
    add: (queue, added) => addJob(host, queue, added),
    requireName: (queue, name) => requireName(host, queue, name),
  };
}
