/**
 * Brings jobs that another worker has left, because it does not know their names, to a worker that does.
 * BullMQ gives a queue's job to whichever worker asks first; without this the same worker may get it again
 * and again, and each pause is longer than the one before.
 */
import { findDue } from '../db/jobs/unfinished.ts';
import { isUuid } from '../util/uuid.ts';
import type { LeftJob } from './control.ts';
import type { Runtime } from './runtime.ts';

/** Promoted at once, a job would meet the worker that has just left it: that one asks for its next job first. */
const PROMOTE_AFTER_MS = 50;

/** Jobs of a queue that are promoted together. Those beyond wait out their pause. */
const MAX_PROMOTED = 1_000;

interface LeftJobsOptions {
  runtime: Runtime;
  /** Names that this worker runs. */
  names: ReadonlySet<string>;
  queues: ReadonlySet<string>;
  /** A busy worker lets them wait: promoted, they would only be left once more. */
  hasRoom(): boolean;
}

export class LeftJobs {
  readonly #options: LeftJobsOptions;
  /** Ids to promote, by queue. */
  readonly #left = new Map<string, Set<string>>();
  #timer: NodeJS.Timeout | undefined;
  #unlisten: (() => void) | undefined;

  constructor(options: LeftJobsOptions) {
    this.#options = options;
  }

  /** Listens for such jobs, and looks for those that were left before this worker started. */
  start(): void {
    const { runtime, queues } = this.#options;
    this.#unlisten = runtime.control.listenForLeft((left) => this.#onLeft(left));
    for (const queue of queues) this.#attempt(queue, this.#findLeft(queue));
  }

  close(): void {
    this.#unlisten?.();
    clearTimeout(this.#timer);
    this.#left.clear();
  }

  #onLeft({ queue, name, id }: LeftJob): void {
    const { names, queues, hasRoom } = this.#options;
    if (!queues.has(queue) || !names.has(name) || !isUuid(id) || !hasRoom()) return;
    const ids = this.#left.get(queue) ?? new Set();
    if (ids.size < MAX_PROMOTED) this.#left.set(queue, ids.add(id));
    this.#timer ??= setTimeout(() => this.#promoteAll(), PROMOTE_AFTER_MS);
  }

  #promoteAll(): void {
    this.#timer = undefined;
    for (const [queue, ids] of this.#left) this.#attempt(queue, Promise.resolve([...ids]));
    this.#left.clear();
  }

  /** Delayed jobs of a name that this worker knows; one that no worker has had yet was delayed by its enqueue. */
  async #findLeft(queue: string): Promise<string[]> {
    const { runtime, names } = this.#options;
    const delayed = await runtime.dispatcher.queue(queue).getDelayed(0, MAX_PROMOTED - 1);
    return delayed
      .filter((job) => job != null && names.has(job.name) && job.attemptsStarted > 0)
      .map(({ id }) => id as string)
      .filter(isUuid);
  }

  #attempt(queue: string, ids: Promise<readonly string[]>): void {
    const { log } = this.#options.runtime;
    this.#promote(queue, ids).catch((err: unknown) => log.debug({ err, queue }, 'jobs of known names not promoted'));
  }

  /** Only what its row says is due: a retry waits for its backoff in the same place. */
  async #promote(queue: string, ids: Promise<readonly string[]>): Promise<void> {
    const { dispatcher, db } = this.#options.runtime;
    const due = await findDue(db.kysely, await ids);
    if (due.length > 0) await dispatcher.promote(dispatcher.queue(queue), due);
  }
}
