import { afterEach, expect, it } from 'vitest';
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import { useDatabase } from '../../helpers/fixtures.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { type EmbeddingServer, startEmbeddingServer } from './embedding-server.ts';

const file = useDatabase();
let server: EmbeddingServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

it('two ingests of one collection ask for each chunk once, and both have their vectors when they end', async () => {
  const asked = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  server = await startEmbeddingServer(async (request) => {
    asked.resolve();
    await released.promise;
    request.answer();
  });
  const embedding = { baseUrl: server.baseUrl, apiKey: undefined, name: 'm' };
  const fleet = createTestFleet(file.url, createBuiltinJobs({ model: undefined, embedding }));
  await fleet.work({ concurrency: 2 });
  const input = (path: string) => ({ collection: 'c', documents: [{ path, content: `About ${path}.` }] });
  const first = await fleet.enqueue('ingest', input('a'));
  await asked.promise;
  const second = await fleet.enqueue('ingest', input('b'));
  // Its text is committed, and it waits for its turn.
  await expect
    .poll(() => file.db.selectFrom('documents').select('path').where('path', '=', 'b').executeTakeFirst())
    .toBeDefined();
  released.resolve();
  await Promise.all([first.result(), second.result()]);
  expect([...server.answered].sort()).toEqual(['a\n\nAbout a.', 'b\n\nAbout b.']);
  const { count } = await file.db
    .selectFrom('chunk_vectors')
    .select((eb) => eb.fn.countAll<number>().as('count'))
    .executeTakeFirstOrThrow();
  expect(count).toBe(2);
  expect(await file.db.selectFrom('embedding_turns').selectAll().execute()).toEqual([]);
});
