/** Real documents to ask about: the ones that the installed `pino` ships. */
import { readdir, readFile } from 'node:fs/promises';
import { afterAll, beforeAll } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { openTestDb, runAttempt } from '../ingest/run-job.ts';

const FOLDER = new URL('../../../node_modules/pino/docs/', import.meta.url);

export async function ingestPinoDocs(db: Db, collection: string): Promise<string> {
  const paths = (await readdir(FOLDER)).filter((path) => path.endsWith('.md'));
  const documents = await Promise.all(
    paths.map(async (path) => ({ path, content: await readFile(new URL(path, FOLDER), 'utf8') })),
  );
  await runAttempt(db, createIngestJob(), { collection, documents }).result;
  const { id } = await db.kysely
    .selectFrom('collections')
    .select('id')
    .where('name', '=', collection)
    .executeTakeFirstOrThrow();
  return id;
}

/** A database for the tests of a file, whose collection `pino` has them. */
export function usePinoDocs(): { readonly db: Db; readonly url: string } {
  let database: TestDatabase | undefined;
  let db: Db | undefined;
  beforeAll(async () => {
    database = await createTestDatabase();
    db = openTestDb(database.url);
    await ingestPinoDocs(db, 'pino');
  });
  afterAll(async () => {
    await db?.close();
    await database?.drop();
  });
  return {
    get db() {
      return db as Db;
    },
    get url() {
      return database?.url ?? '';
    },
  };
}
