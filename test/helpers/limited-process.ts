/**
 * A worker process of limited jobs, for a test that kills some. Each run notes its start, and its end after a while; it
 * ends no earlier, and not at all where its process is killed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import type { WorkerProcessOptions } from './worker-process.ts';

export const limitedJob = defineJob({
  name: 'limited',
  input: z.object({ ms: z.number(), key: z.string() }),
  limits: [{ key: ({ input }) => input.key, concurrency: 3 }],
  async run({ ms, key }, ctx) {
    const note = (what: string) =>
      ctx.transaction((trx) =>
        sql`insert into ledger (job_id, fence, key, pid, what) values (${ctx.jobId}, ${ctx.fence}, ${key}, ${process.pid}, ${what})`.execute(
          trx,
        ),
      );
    await note('start');
    await delay(ms);
    await note('end');
  },
});

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] as string) as WorkerProcessOptions;
  const fleet = createFleet({
    ...options,
    jobs: [limitedJob],
    databasePoolSize: 5,
    reconcileMs: 300,
    concurrency: 50,
  });
  await fleet.work();
  process.send?.({ type: 'ready' });
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
}
