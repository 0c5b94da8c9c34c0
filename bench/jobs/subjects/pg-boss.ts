import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { QUEUE } from './bullmq-queue.ts';
import { keyOf, range, type Subject } from './subject.ts';

const CHUNK = 1_000;

/**
 * pg-boss as it is fastest: one worker that fetches `concurrency` jobs a statement, runs
 * them together, completes them in another, and continues at once while batches come back full.
 */
export const pgBoss: Subject = {
  name: 'pg-boss',
  title: 'pg-boss',
  measures: [],
  // One job at a time means a poll of half a second for each.
  supports: (concurrency) => concurrency > 1,
  async prepare(databaseUrl) {
    const boss = await startBoss(databaseUrl);
    await boss.createQueue(QUEUE);
    await boss.stop({ graceful: false });
  },
  async produce(place) {
    const boss = await startBoss(place.databaseUrl);
    const pool = new pg.Pool({ connectionString: place.databaseUrl, max: 1 });
    pool.on('error', () => {});
    const insert = async (first: number, count: number) => {
      await boss.insert(
        QUEUE,
        range(first, count).map((n) => ({ data: { n }, singletonKey: keyOf(n) })),
      );
    };
    return {
      async fill(first, count) {
        for (let done = 0; done < count; done += CHUNK) await insert(first + done, Math.min(CHUNK, count - done));
      },
      async countRemaining() {
        const result = await pool.query(
          `select count(*)::int as n from pgboss.job where name = $1 and state < 'completed'`,
          [QUEUE],
        );
        return result.rows[0]?.n as number;
      },
      async close() {
        await boss.stop({ graceful: false });
        await pool.end();
      },
    };
  },
  async consume(place, { concurrency, onJob }) {
    const boss = await startBoss(place.databaseUrl);
    return {
      async start() {
        await boss.work(
          QUEUE,
          { batchSize: concurrency, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 },
          async (jobs) => {
            for (const job of jobs) onJob(job.data as { n: number });
          },
        );
      },
      pause: () => boss.offWork(QUEUE, { wait: true }),
      close: () => boss.stop({ graceful: false }),
    };
  },
};

async function startBoss(connectionString: string): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString, application_name: 'pg-boss bench' });
  boss.on('error', (error) => {
    throw error;
  });
  return boss.start();
}
