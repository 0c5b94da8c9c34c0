/**
 * Brings jobs that another worker has left, because it does not know their names, to a worker that does.
 * BullMQ gives a queue's job to whichever worker asks first; without this the same worker may get it again
 * and again, and each pause is longer than the one before.
 */
import { findDue } from '../db/jobs/unfinished.ts';
import { isUuid } from '../util/uuid.ts';
import type { LeftJob } from './control.ts';
import type { Runtime } from './runtime.ts';

/** Not at once: where the other worker is alone idle, it would have the job before it has asked for another. */
const PROMOTE_AFTER_MS = 50;

/** Delayed jobs that a worker looks through when it starts. */
const MAX_LOOKED_AT = 1_000;

export interface LeftJobsOptions {
  runtime: Runtime;
  /** Names that this worker runs. */
  names: ReadonlySet<string>;
  queues: ReadonlySet<string>;
  /** A busy worker lets them wait: promoted, they would only go round. */
  hasRoom(): boolean;
}

export class LeftJobs {
  readonly #options: LeftJobsOptions;
  readonly #timers = new Set<NodeJS.Timeout>();
  #unlisten: (() => void) | undefined;

  constructor(options: LeftJobsOptions) {
    this.#options = options;
  }

  /** Listens for such jobs, and looks for those that were left before this worker came. */
  start(): void {
    const { runtime, queues } = this.#options;
    this.#unlisten = runtime.control.listenForLeft((left) => this.#onLeft(left));
    for (const queue of queues)
      this.#lookAt(queue).catch((err: unknown) => runtime.log.debug({ err, queue }, 'no look at jobs that were left'));
  }

  close(): void {
    this.#unlisten?.();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #onLeft({ queue, name, id }: LeftJob): void {
    const { runtime, names, queues, hasRoom } = this.#options;
    if (!queues.has(queue) || !names.has(name) || !hasRoom()) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#promote(queue, [id]).catch((err: unknown) => runtime.log.debug({ err, queue }, 'job not promoted'));
    }, PROMOTE_AFTER_MS);
    this.#timers.add(timer);
  }

  async #lookAt(name: string): Promise<void> {
    const { runtime, names } = this.#options;
    const queue = runtime.dispatcher.queues.find((candidate) => candidate.name === name);
    const delayed = (await queue?.getDelayed(0, MAX_LOOKED_AT - 1)) ?? [];
    // A job that no worker has had was delayed by whoever enqueued it.
    const left = delayed.filter((job) => job != null && names.has(job.name) && job.attemptsStarted > 0);
    await this.#promote(
      name,
      left.map(({ id }) => id as string),
    );
  }

  /** Only what its row says is due: a retry waits for its backoff in the same place. */
  async #promote(name: string, ids: readonly string[]): Promise<void> {
    const { dispatcher, db } = this.#options.runtime;
    const queue = dispatcher.queues.find((candidate) => candidate.name === name);
    const due = await findDue(db.kysely, ids.filter(isUuid));
    if (queue !== undefined && due.length > 0) await dispatcher.promote(queue, due);
  }
}
