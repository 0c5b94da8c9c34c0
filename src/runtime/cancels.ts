/**
 * Requests to cancel that another process announced in Redis. The row says whether there is one: every client
 * of Redis can publish a message, and a message alone ends nobody's run.
 */
import type { Kysely } from 'kysely';
import { findCancelRequested } from '../db/jobs/find.ts';
import type { Database } from '../db/schema.ts';
import type { LeaseKeeper } from '../leases/keeper.ts';
import type { Logger } from '../log.ts';

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

  /** One statement at a time, however many messages come. */
  async #look(): Promise<void> {
    const { db, leases, log } = this.#options;
    this.#looking = true;
    try {
      while (this.#wanted.size > 0) {
        const ids = [...this.#wanted];
        this.#wanted.clear();
        for (const id of await findCancelRequested(db, ids)) leases.cancel(id);
      }
    } catch (err) {
      log.debug({ err }, 'requests to cancel not looked at; the next heartbeat will find them');
    } finally {
      this.#looking = false;
    }
  }
}
