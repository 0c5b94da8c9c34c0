import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import { useDatabase } from '../../helpers/fixtures.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../../helpers/services.ts';
import { startEmbeddingServer } from './embedding-server.ts';

const file = useDatabase();
const PROCESS = fileURLToPath(new URL('./ingest-process.ts', import.meta.url));

it('kill -9 between any two answers pays no chunk twice, and in the end each has its vector', async () => {
  const chunks = 30;
  let worker: ChildProcess | undefined;
  // Kills at the 2nd, 4th and 6th request: what is asked for is not answered, and not paid.
  const server = await startEmbeddingServer((request, n) => {
    if (n % 2 === 0 && n <= 6) worker?.kill('SIGKILL');
    else request.answer();
  });
  onTestFinished(() => server.close());
  const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() };
  const lease = { leaseTtlMs: 2_000, heartbeatMs: 300 };
  const fleet = createTestFleet(file.url, createBuiltinJobs({ model: undefined }), {
    prefix: options.prefix,
    ...lease,
  });
  const documents = Array.from({ length: chunks }, (_, n) => ({ path: `${n}.md`, content: `Number ${n}.` }));
  const job = await fleet.enqueue('ingest', { collection: 'c', documents });
  let isDone = false;
  const result = job.result().finally(() => {
    isDone = true;
  });
  let kills = 0;
  const run = async (): Promise<void> => {
    while (!isDone) {
      worker = fork(PROCESS, [JSON.stringify({ ...options, ...lease, baseUrl: server.baseUrl })], {
        execArgv: ['--conditions=oncefleet-source'],
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      });
      await Promise.race([once(worker, 'exit'), result]);
      if (!isDone) kills++;
    }
    worker?.kill('SIGKILL');
  };
  const running = run();
  expect(await result).toMatchObject({ added: chunks });
  await running;
  expect(kills).toBe(3);
  expect(new Set(server.answered).size).toBe(chunks);
  expect(server.answered).toHaveLength(chunks);
  const { count } = await file.db
    .selectFrom('chunk_vectors')
    .select((eb) => eb.fn.sum<number>('chunk_count').as('count'))
    .executeTakeFirstOrThrow();
  expect(Number(count)).toBe(chunks);
});
