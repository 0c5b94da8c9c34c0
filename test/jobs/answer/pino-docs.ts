/** Real documents to ask about: the ones that the installed `pino` ships. */
import { readdir, readFile } from 'node:fs/promises';
import type { Db } from '../../../src/db/client.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import { runAttempt } from '../ingest/run-job.ts';

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
