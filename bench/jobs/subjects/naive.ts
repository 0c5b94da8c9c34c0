import { Worker } from 'bullmq';
import pg from 'pg';
import { execute } from '../../../src/testing/services/databases.ts';
import { connectRedis } from '../../lib/databases.ts';
import { createBullProducer, Gate, QUEUE } from './bullmq-queue.ts';
import type { Subject } from './subject.ts';

const POOL_SIZE = 10;

/** What a team writes in an afternoon: claim the key, run, store the result. No lease, no fence, no heartbeat. */
export const naive: Subject = {
  name: 'naive',
  title: 'naive wrapper',
  measures: ['latency'],
  supports: () => true,
  async prepare(databaseUrl) {
    await execute(
      databaseUrl,
      `create table processed_jobs (
        key text primary key,
        status text not null,
        result jsonb,
        started_at timestamptz not null default now(),
        finished_at timestamptz
      )`,
    );
  },
  produce: async (place) => createBullProducer(place),
  async consume(place, { concurrency, onJob }) {
    const connection = connectRedis(place.redisUrl);
    const pool = new pg.Pool({ connectionString: place.databaseUrl, max: POOL_SIZE });
    pool.on('error', () => {});
    const gate = new Gate(place);
    await gate.shut();
    const worker = new Worker(
      QUEUE,
      async (job) => {
        const { key } = job.data as { key: string };
        const claimed = await pool.query(
          `insert into processed_jobs (key, status) values ($1, 'running')
           on conflict (key) do update set started_at = now() where processed_jobs.status <> 'completed'
           returning key`,
          [key],
        );
        if (claimed.rowCount === 0) {
          const stored = await pool.query('select result from processed_jobs where key = $1', [key]);
          return stored.rows[0]?.result;
        }
        const result = onJob(job.data) ?? null;
        await pool.query(
          `update processed_jobs set status = 'completed', result = $2, finished_at = now() where key = $1`,
          [key, JSON.stringify(result)],
        );
        return result;
      },
      { connection, prefix: place.prefix, concurrency },
    );
    await worker.waitUntilReady();
    return {
      start: () => gate.open(),
      pause: () => gate.shut(),
      async close() {
        await worker.close();
        await gate.close();
        connection.disconnect();
        await pool.end();
      },
    };
  },
};
