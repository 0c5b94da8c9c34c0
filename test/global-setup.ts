/** Once per run: Postgres and Redis, and a migrated template database that test files clone. */
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { watchBootstrap } from '../scripts/entry.ts';
import { startServices } from '../scripts/services.ts';
import { createDb } from '../src/db/client.ts';
import { migrate } from '../src/db/migrate.ts';
import { watchdog } from '../src/testing/services/child.ts';
import { createDatabase, dropDatabase, execute, uniqueName } from '../src/testing/services/databases.ts';
import { removeKeys } from '../src/testing/services/keys.ts';
import { findProgram, startPgBouncer } from './helpers/pgbouncer.ts';

declare module 'vitest' {
  interface ProvidedContext {
    services: {
      serverUrl: string;
      /** Where the fleets of tests reach their databases; absent where that is the server. */
      poolerUrl: string | undefined;
      template: string;
      redisUrl: string;
      run: string;
      folder: string;
    };
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  watchBootstrap();
  const services = await startServices({
    kind: 'test',
    databaseUrl: process.env.DATABASE_URL,
    redisUrl: process.env.REDIS_URL,
    durable: false,
    say: (line) => console.log(line),
  });
  const run = uniqueName('oncefleet_test');
  const template = `${run}_template`;
  // For createTestFolder(); servers of other users may be told to work in it.
  const folder = join(tmpdir(), run);
  await mkdir(folder, { mode: 0o755 });
  watchdog.remove(folder);
  // Hundreds of processes load the same modules: the first of a kind keeps what it compiled for the rest.
  process.env.NODE_COMPILE_CACHE = join(folder, 'compile-cache');
  try {
    await migrateInto(await createDatabase(services.databaseUrl, template));
  } catch (error) {
    await services.stop();
    await watchdog.removeNow(folder);
    throw error;
  }
  const pooler = await startPooler(services.databaseUrl);
  project.provide('services', {
    serverUrl: services.databaseUrl,
    poolerUrl: pooler?.url,
    template,
    redisUrl: services.redisUrl,
    run,
    folder,
  });

  return async () => {
    await pooler?.stop();
    // Private servers go as a whole; on a given one, whatever this run made is removed.
    if (services.postgres === undefined) {
      const made = await execute(
        services.databaseUrl,
        `select datname from pg_database where starts_with(datname, '${run}')`,
      );
      for (const { datname } of made.rows) await dropDatabase(services.databaseUrl, datname);
    }
    if (services.redis === undefined) await removeKeys(services.redisUrl, run);
    await services.stop();
    await watchdog.removeNow(folder);
  };
}

/** With ONCEFLEET_TEST_PGBOUNCER=1 the fleets of all tests go through PgBouncer in transaction mode. */
async function startPooler(databaseUrl: string): Promise<{ url: string; stop(): Promise<void> } | undefined> {
  if (process.env.ONCEFLEET_TEST_PGBOUNCER !== '1') return undefined;
  const program = findProgram('pgbouncer');
  if (program === undefined) throw new Error('ONCEFLEET_TEST_PGBOUNCER=1 needs PgBouncer: apt-get install pgbouncer');
  // Tests hold transactions open, several at a time.
  return startPgBouncer(program, databaseUrl, 30);
}

async function migrateInto(url: string): Promise<void> {
  const db = createDb({ url, maxConnections: 2, applicationName: 'oncefleet test setup', onError: () => {} });
  try {
    await migrate(db.kysely);
  } finally {
    await db.close();
  }
}
