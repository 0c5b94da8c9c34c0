/**
 * Requests to cancel that another process announced in Redis. The row says whether there is one: every client
 * of Redis can publish a message, and a message alone ends nobody's run.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { findCancelRequested } from '../db/jobs/find.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { LeaseKeeper } from '../leases/keeper.ts';
import type { Logger } from '../log.ts';

/** While Postgres is unreachable: the pause doubles from the first to the second. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

interface CancelsOptions {
  db: Kysely<Database>;
  leases: Pick<LeaseKeeper, 'holds' | 'cancel'>;
  log: Logger;
}

export class Cancels {
  readonly #options: CancelsOptions;
  /** Jobs to look at: of those that this process runs, so no more than it runs. */
  readonly #wanted = new Set<string>();
  #looking = false;

  constructor(options: CancelsOptions) {
    this.#options = options;
  }

  /** Cancels the job's run in this process, if there is one and its row says that a cancel was requested. */
  look(jobId: string): void {
    if (!this.#options.leases.holds(jobId)) return;
    this.#wanted.add(jobId);
    if (!this.#looking) void this.#look();
  }

  /** One statement at a time, however many messages come, until Postgres answers: the next heartbeat may be hours away. */
  async #look(): Promise<void> {
    const { db, leases, log } = this.#options;
    this.#looking = true;
    for (let waitMs = FIRST_PAUSE_MS; this.#wanted.size > 0; ) {
      // A run that has ended meanwhile has nothing to cancel.
      const ids = [...this.#wanted].filter((id) => leases.holds(id));
      this.#wanted.clear();
      if (ids.length === 0) continue;
      try {
        for (const id of await findCancelRequested(db, ids)) leases.cancel(id);
        waitMs = FIRST_PAUSE_MS;
      } catch (err) {
        log.debug({ err }, 'requests to cancel not looked at');
        if (!isTransient(err)) continue;
        for (const id of ids) this.#wanted.add(id);
        await delay(waitMs * (0.5 + Math.random()), undefined, { ref: false });
        waitMs = Math.min(waitMs * 2, LONGEST_PAUSE_MS);
      }
    }
    this.#looking = false;
  }
}
