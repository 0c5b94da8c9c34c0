/** What the operations of a client share. */
import { findHome } from '../db/outbox.ts';
import { qualify } from '../db/own-schema.ts';
import { OncefleetError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { parseOptions } from '../options.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { tenantSchema } from './options.ts';
import { Outcomes } from './outcomes.ts';

export interface ClientHost {
  readonly runtime: Runtime;
  readonly jobs: ReadonlyMap<string, AnyJobDefinition>;
  readonly outcomes: Outcomes;
  closed: boolean;
  /** The identity of the client's own database; looked up once. */
  findHome(): Promise<string | null>;
}

export function createHost(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>): ClientHost {
  const { kysely, pool, schema } = runtime.db;
  let home: Promise<string | null> | undefined;
  return {
    runtime,
    jobs,
    outcomes: new Outcomes({ db: kysely, hub: runtime.hub, log: runtime.log }),
    closed: false,
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
