/** A fleet whose workers a test starts, the board in front of it, and a queue of another BullMQ client. */
import { randomUUID } from 'node:crypto';
import { Queue, Worker } from 'bullmq';
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { Redis } from 'ioredis';
import type { Kysely } from 'kysely';
import { expect } from 'vitest';
import { z } from 'zod';
import type { Database } from '../../src/db/schema.ts';
import { NonRetryableError } from '../../src/errors.ts';
import { createApp } from '../../src/http/app.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { silentLogger } from '../../src/log.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { withIdempotency } from '../../src/runs/with-idempotency.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import type { FleetWorker } from '../../src/workers/worker.ts';
import { createTestDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { inject } from './requests.ts';

export const BOARD = '/admin/queues/api';

export interface BoardStage {
  fleet: Fleet;
  app: FastifyInstance;
  db: Kysely<Database>;
  redis: Redis;
  prefix: string;
  databaseUrl: string;
  /** The fleet's queue of the jobs `keep` and `other`. */
  queue: Queue;
  /** Names of the jobs that have run, in order. */
  ran: string[];
  work(): Promise<FleetWorker>;
  call(method: 'GET' | 'PUT' | 'POST' | 'PATCH', path: string, body?: unknown): Promise<LightMyRequestResponse>;
  /** One round of the reconciler. */
  reconcile(): Promise<void>;
  /** Forgets what Redis has of the fleet, as a flush does. */
  loseRedis(): Promise<void>;
  rowOf(id: string): Promise<{
    status: string;
    run_at: Date;
    options: string;
    fence: number;
    queue: string;
    idempotency_key: string | null;
  }>;
  close(): Promise<void>;
}

export async function startBoardStage(): Promise<BoardStage> {
  const database = await createTestDatabase();
  const prefix = uniquePrefix();
  const redisUrl = testRedisUrl();
  const ran: string[] = [];
  const log = silentLogger();
  const input = z.object({ text: z.string() });
  const keep = defineJob({
    name: 'keep',
    queue: 'work',
    description: 'Keeps a text.',
    input,
    async run({ text }) {
      ran.push(text);
      if (text.startsWith('fail')) throw new NonRetryableError('It cannot be kept');
      return text;
    },
  });
  const other = defineJob({ name: 'other', queue: 'work', input, run: async ({ text }) => text });
  const options = { databaseUrl: database.url, redisUrl, prefix, log };
  const fleet = createFleet({ ...options, jobs: [keep, other], reconcileMs: 600_000 });
  const runtime = new Runtime(options);
  const reconciler = new Reconciler({ runtime, jobs: fleet.jobs, intervalMs: 600_000 });
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 64 * 1024 };
  const app = createApp({ client: fleet, log, config });
  const redis = new Redis(redisUrl);
  runtime.dispatcher.queue('work');
  await runtime.redis.ping();
  const queue = fleet.queues.find(({ name }) => name === 'work') as Queue;
  await queue.waitUntilReady();
  return {
    fleet,
    app,
    db: fleet.db,
    redis,
    prefix,
    databaseUrl: database.url,
    queue,
    ran,
    work: () => fleet.work(),
    async call(method, path, body) {
      return inject(app, {
        method,
        url: `${BOARD}${path}`,
        ...(body === undefined
          ? {}
          : { payload: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      });
    },
    async reconcile() {
      await reconciler.reconcile();
    },
    async loseRedis() {
      const keys = await redis.keys(`${prefix}:*`);
      if (keys.length > 0) await redis.del(keys);
    },
    async rowOf(id) {
      return fleet.db
        .selectFrom('jobs')
        .select(['status', 'run_at', 'options', 'fence', 'queue', 'idempotency_key'])
        .where('id', '=', id)
        .executeTakeFirstOrThrow();
    },
    async close() {
      await app.close();
      await fleet.close();
      await reconciler.close();
      await runtime.close();
      redis.disconnect();
      await database.drop();
    },
  };
}

export interface ForeignQueue {
  queue: Queue;
  /** As the board has it. */
  shown: string;
  /** What the processor was given, in order. */
  given: unknown[];
  /** Adds a job and waits until its first attempt has failed and it waits for the next, an hour later. */
  addFailingOnce(data: object): Promise<{ bullId: string; rowId: string }>;
  close(): Promise<void>;
}

/** A queue under BullMQ's default prefix, with a guarded worker. `data.fail`: its first attempt fails. */
export async function startForeignQueue(stage: BoardStage): Promise<ForeignQueue> {
  const redisUrl = testRedisUrl();
  const name = `payments-${randomUUID()}`;
  const given: unknown[] = [];
  const guarded = withIdempotency(
    async (job) => {
      given.push(job.data);
      if ((job.data as { fail?: boolean }).fail === true) throw new Error('not yet');
      return 'paid';
    },
    { databaseUrl: stage.databaseUrl, redisUrl, prefix: stage.prefix, log: silentLogger() },
  );
  const queue = new Queue(name, { connection: { url: redisUrl } });
  const worker = new Worker(name, guarded, { connection: { url: redisUrl }, maxStalledCount: 1_000_000 });
  await worker.waitUntilReady();
  return {
    queue,
    shown: encodeURIComponent(`bull:${name}`),
    given,
    async addFailingOnce(data) {
      const job = await queue.add(
        'pay',
        { ...data, fail: true },
        { attempts: 3, backoff: { type: 'fixed', delay: 200_000 } },
      );
      const bullId = job.id as string;
      const find = () =>
        stage.db
          .selectFrom('jobs')
          .select('id')
          .where('queue', '=', name)
          .where('status', '=', 'pending')
          .where('error_count', '=', 1)
          .orderBy('id', 'desc')
          .executeTakeFirst();
      await expect.poll(async () => (await find())?.id, { timeout: 15_000 }).toBeDefined();
      await expect.poll(() => queue.getJobState(bullId), { timeout: 15_000 }).toBe('delayed');
      return { bullId, rowId: (await find())?.id as string };
    },
    async close() {
      await worker.close();
      await guarded.close();
      await queue.obliterate({ force: true });
      await queue.close();
    },
  };
}
