/** Gauges from rows, read at most every few seconds however often they are asked for. */
import type { Kysely } from 'kysely';
import { type Backlog, type BacklogLimits, findBacklog } from '../db/backlog.ts';
import type { Database } from '../db/schema.ts';
import type { Logger } from '../log.ts';
import { within } from '../util/with-timeout.ts';

const LIMITS: BacklogLimits = { jobs: 100_000, tenants: 20, queues: 50, statementMs: 2_000 };

/** What was read is shown again for this time: several scrapers cost one statement. */
const FRESH_MS = 10_000;

/** How long a scrape waits: for both statements, and for a connection. */
const WAIT_MS = 5_000;

interface RowGaugesOptions {
  db: Kysely<Database>;
  log: Logger;
  limits?: Partial<BacklogLimits>;
  freshMs?: number;
}

export class RowGauges {
  readonly #options: RowGaugesOptions;
  #read: Promise<Backlog | undefined> | undefined;
  #readAt = Number.NEGATIVE_INFINITY;

  constructor(options: RowGaugesOptions) {
    this.#options = options;
  }

  /** Never throws; undefined where Postgres has not answered in time. */
  async read(): Promise<Backlog | undefined> {
    const { freshMs = FRESH_MS } = this.#options;
    if (this.#read === undefined || performance.now() - this.#readAt >= freshMs) {
      this.#readAt = performance.now();
      this.#read = this.#find();
    }
    return within(WAIT_MS, this.#read, () => undefined);
  }

  async #find(): Promise<Backlog | undefined> {
    const { db, log, limits } = this.#options;
    try {
      return await findBacklog(db, { ...LIMITS, ...limits });
    } catch (err) {
      log.warn({ err }, 'gauges of rows could not be read');
      return undefined;
    }
  }
}
