/** What the operations of a client share. */
import type { Transaction } from 'kysely';
import { boundSearch } from '../db/jobs/search.ts';
import { findHome } from '../db/outbox.ts';
import { qualify } from '../db/own-schema.ts';
import type { Database } from '../db/schema.ts';
import { OncefleetError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { parseOptions } from '../options.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { Limiter } from '../util/limiter.ts';
import { tenantSchema } from './options.ts';
import { Outcomes } from './outcomes.ts';

/** How long a statement of a search may take. */
const SEARCH_LIMIT_MS = 5_000;

/** Searches that wait in a process: each waits for half the pool at the most. */
const MAX_WAITING = 100;

/** Postgres's code for a statement that took too long. */
const QUERY_CANCELED = '57014';

export interface ClientHost {
  readonly runtime: Runtime;
  readonly jobs: ReadonlyMap<string, AnyJobDefinition>;
  readonly outcomes: Outcomes;
  closed: boolean;
  /**
   * Reads what may take long, in a transaction: few at once, so that others find a connection, and none for long.
   *
   * @throws OncefleetError BUSY
   */
  search<T>(read: (trx: Transaction<Database>) => Promise<T>): Promise<T>;
  /** The identity of the client's own database; looked up once. */
  findHome(): Promise<string | null>;
}

export function createHost(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>): ClientHost {
  const { kysely, pool, schema } = runtime.db;
  const searches = new Limiter({
    atOnce: Math.max(1, Math.floor((pool.options.max ?? 1) / 2)),
    maxWaiting: MAX_WAITING,
    refusal: () => new OncefleetError('BUSY', 'Too many searches wait in this process; try again in a moment'),
  });
  let home: Promise<string | null> | undefined;
  return {
    runtime,
    jobs,
    outcomes: new Outcomes({ db: kysely, hub: runtime.hub, log: runtime.log }),
    closed: false,
    search: (read) =>
      searches.run(async () => {
        try {
          return await kysely.transaction().execute(async (trx) => {
            await boundSearch(trx, SEARCH_LIMIT_MS);
            return read(trx);
          });
        } catch (cause) {
          if ((cause as { code?: unknown }).code !== QUERY_CANCELED) throw cause;
          throw new OncefleetError(
            'BUSY',
            `The search took longer than ${SEARCH_LIMIT_MS} ms; narrow it down, or try again`,
            {
              cause,
            },
          );
        }
      }),
    findHome() {
      if (home === undefined) {
        home = findHome(async (text) => (await pool.query(qualify(text, schema))).rows);
        home.catch(() => {
          home = undefined;
        });
      }
      return home;
    },
  };
}

export function tenantOf({ runtime }: ClientHost, options: { tenant?: string | undefined }): string {
  return options.tenant ?? runtime.settings.tenant;
}

/**
 * The tenant of options that have nothing else.
 *
 * @throws InputInvalidError
 */
export function tenantIn(host: ClientHost, what: string, options: unknown): string {
  return tenantOf(host, parseOptions(what, tenantSchema, options));
}

export function notFound(id: unknown): OncefleetError {
  const jobId = String(id).slice(0, 100);
  return new OncefleetError('JOB_NOT_FOUND', `No job ${jobId}`, { details: { jobId } });
}
