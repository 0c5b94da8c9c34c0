import { Logger, makeWorkerUtils, type Runner, run, runMigrations, type WorkerUtils } from 'graphile-worker';
import pg from 'pg';
import { QUEUE } from './bullmq-queue.ts';
import { type JobInput, keyOf, range, type Subject } from './subject.ts';

const CHUNK = 1_000;
const POOL_SIZE = 10;

const logger = new Logger(() => () => {});

/** graphile-worker as its performance page advises: a local queue, and completions that share statements. */
export const graphileWorker: Subject = {
  name: 'graphile-worker',
  title: 'graphile-worker',
  measures: [],
  supports: () => true,
  prepare: (connectionString) => runMigrations({ connectionString, logger, taskList: {}, parsedCronItems: [] }),
  async produce(place) {
    const utils: WorkerUtils = await makeWorkerUtils({ connectionString: place.databaseUrl, logger });
    const pool = new pg.Pool({ connectionString: place.databaseUrl, max: 1 });
    pool.on('error', () => {});
    return {
      async fill(first, count) {
        for (let done = 0; done < count; done += CHUNK) {
          const numbers = range(first + done, Math.min(CHUNK, count - done));
          await utils.addJobs(numbers.map((n) => ({ identifier: QUEUE, payload: { n }, jobKey: keyOf(n) })));
        }
      },
      async countRemaining() {
        // A finished job's row is deleted.
        const result = await pool.query('select count(*)::int as n from graphile_worker._private_jobs');
        return result.rows[0]?.n as number;
      },
      async close() {
        await utils.release();
        await pool.end();
      },
    };
  },
  async consume(place, { concurrency, onJob }) {
    const pgPool = new pg.Pool({ connectionString: place.databaseUrl, max: POOL_SIZE });
    pgPool.on('error', () => {});
    pgPool.on('connect', (client) => client.on('error', () => {}));
    let runner: Runner | undefined;
    const pause = async () => {
      await runner?.stop();
      runner = undefined;
    };
    return {
      async start() {
        runner = await run({
          pgPool,
          logger,
          noHandleSignals: true,
          parsedCronItems: [],
          concurrency,
          preset: {
            worker: { concurrentJobs: concurrency, localQueue: { size: concurrency + 1 }, completeJobBatchDelay: 0 },
          },
          taskList: { [QUEUE]: async (payload) => onJob(payload as JobInput) },
        });
      },
      pause,
      async close() {
        await pause();
        await pgPool.end();
      },
    };
  },
};
