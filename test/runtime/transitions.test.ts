/** Every transition of a job, by every way that makes it: observers are told once, after the commit, and of no payload. */
import { DelayedError, type Job, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { afterAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { TRANSITIONS } from '../../src/db/jobs/states.ts';
import { findRoundAge } from '../../src/db/reconcile.ts';
import {
  defineJob,
  type Fleet,
  type FleetOptions,
  type JobContext,
  NonRetryableError,
  startMaintenance,
  type Transition,
  withIdempotency,
} from '../../src/index.ts';
import { claimFree, expireLease, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const POLL = { timeout: 15_000, interval: 5 };
const HOUR = 3_600_000;
/** In inputs, results, events, checkpoints and messages of errors; observers must not see it. */
const SECRET = 'hunter2';

const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => redis.disconnect());

beforeEach(async () => {
  await sql`
    truncate oncefleet.jobs, oncefleet.unfinished_jobs, oncefleet.ended_attempts, oncefleet.stream_heads,
      oncefleet.journal_segments, oncefleet.dispatch_outbox, oncefleet.poison_alerts,
      oncefleet.reconciler_rounds`.execute(file.db);
});

type Run = (ctx: JobContext, attempt: number) => unknown;

/** Processes on one prefix, all observed. */
class Scene {
  readonly prefix = uniquePrefix();
  readonly seen: Transition[] = [];
  readonly servers = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: this.prefix };
  readonly #closers: (() => Promise<unknown>)[] = [];
  #run: Run = () => SECRET;
  readonly job = defineJob({
    name: 'work',
    input: z.object({ text: z.string() }),
    backoff: { type: 'fixed', delayMs: 0, jitter: 0 },
    run: (_, ctx) => this.#run(ctx, ctx.attempt) as string,
  });

  runs(run: Run): this {
    this.#run = run;
    return this;
  }

  /** A process. Without workers nothing happens but what is asked of it. */
  fleet(overrides: Partial<FleetOptions> = {}): Fleet {
    const options = { prefix: this.prefix, reconcileMs: HOUR, sweepMs: 0, ...overrides };
    const fleet = createTestFleet(file.url, [this.job], options);
    fleet.observe((transition) => this.seen.push(transition));
    this.#closers.push(() => fleet.close());
    return fleet;
  }

  enqueue(fleet: Fleet, options: Parameters<Fleet['enqueue']>[2] = {}) {
    return fleet.enqueue(this.job, { text: SECRET }, options);
  }

  queue(prefix: string, name: string): Queue {
    const queue = new Queue(name, { connection: redis, prefix });
    this.#closers.push(() => queue.close());
    return queue;
  }

  /** The reconciler alone, with other workers nowhere. */
  maintain(): void {
    const maintenance = startMaintenance({ ...this.servers, reconcileMs: 100, sweepMs: 0, maxCrashes: 0 });
    maintenance.observe((transition) => this.seen.push(transition));
    this.#closers.push(() => maintenance.close());
  }

  guarded(processor: (job: Job, ctx: JobContext) => unknown): Queue {
    const prefix = uniquePrefix();
    const run = (job: Job, _token: unknown, _signal: AbortSignal, ctx: JobContext) => processor(job, ctx);
    const guarded = withIdempotency(run as never, this.servers);
    guarded.observe((transition) => this.seen.push(transition));
    const worker = new Worker('plain', guarded as never, { connection: { url: testRedisUrl() }, prefix });
    this.#closers.push(async () => {
      await worker.close();
      await guarded.close();
    });
    return this.queue(prefix, 'plain');
  }

  of(id: string): string[] {
    return this.seen.filter(({ jobId }) => jobId === id).map(({ type, by }) => `${type} by ${by}`);
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0)) await close();
  }
}

/** A run that a test holds. */
function held() {
  const started = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const run: Run = (ctx) => {
    started.resolve();
    return Promise.race([
      go.promise,
      new Promise((_, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason))),
    ]);
  };
  return { run, started: started.promise, go };
}

const ENQUEUED = ['created by client', 'dispatched by client'];
const CLAIMED = 'claimed by worker';

/** What makes transitions of a job, and which. The job's id, and what observers of all processes are told of it. */
const WAYS: Record<string, (scene: Scene) => Promise<{ id: string; told: string[] }>> = {
  async 'a delivery that meets a limit'(scene) {
    await sql`insert into oncefleet.limit_keys (key, paused_until) values ('@queue/work', clock_timestamp() + interval '1 hour')`.execute(
      file.db,
    );
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    await expect.poll(() => scene.of(id), POLL).toContain('limited by worker');
    await sql`delete from oncefleet.limit_keys`.execute(file.db);
    return { id, told: [...ENQUEUED, 'limited by worker'] };
  },
  async 'a run that returns'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'completed by worker'] };
  },
  async 'a run that emits and returns'(scene) {
    const fleet = scene.runs(async (ctx) => ctx.emit({ type: 'delta', text: SECRET } as never)).fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'completed by worker'] };
  },
  async 'ctx.complete'(scene) {
    const fleet = scene
      .runs((ctx) => ctx.db.transaction().execute((trx) => ctx.complete(trx as never, SECRET)))
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'completed by worker'] };
  },
  async 'ctx.complete in a transaction that is rolled back'(scene) {
    const fleet = scene
      .runs((ctx) =>
        ctx.db.transaction().execute(async (trx) => {
          await ctx.complete(trx as never, SECRET);
          throw new NonRetryableError(SECRET);
        }),
      )
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker'] };
  },
  async 'a run that throws, and one that returns'(scene) {
    const fleet = scene
      .runs((_, attempt) => {
        if (attempt === 1) throw new Error(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'retried by worker', CLAIMED, 'completed by worker'] };
  },
  async 'a run that must not be tried again'(scene) {
    const fleet = scene
      .runs(() => {
        throw new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker'] };
  },
  async 'a cancel of a job that waits'(scene) {
    const handle = await scene.enqueue(scene.fleet(), { delayMs: HOUR });
    await handle.cancel();
    await handle.cancel();
    return { id: handle.id, told: [...ENQUEUED, 'cancelled by client'] };
  },
  async 'a cancel of a job that runs'(scene) {
    const { run, started } = held();
    const fleet = scene.runs(run).fleet();
    const handle = await scene.enqueue(fleet);
    await fleet.work();
    await started;
    await handle.cancel();
    return { id: handle.id, told: [...ENQUEUED, CLAIMED, 'cancelled by worker'] };
  },
  async 'a cancel of a job whose worker died'(scene) {
    const handle = await scene.enqueue(scene.fleet(), { delayMs: HOUR });
    await claimFree(file.db, handle.id);
    await expireLease(file.db, handle.id);
    await handle.cancel();
    return { id: handle.id, told: [...ENQUEUED, 'cancelled by client'] };
  },
  async 'a worker that is interrupted'(scene) {
    const { run, started } = held();
    const fleet = scene.runs(run).fleet();
    const { id } = await scene.enqueue(fleet);
    const worker = await fleet.work();
    await started;
    const closing = worker.close({ timeoutMs: 0 });
    await closing;
    return { id, told: [...ENQUEUED, CLAIMED, 'interrupted by worker'] };
  },
  async 'a worker that dies, and another one'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    await fleet.work();
    return { id, told: [...ENQUEUED, CLAIMED, 'completed by worker'] };
  },
  async 'a delivery that meets a live lease'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet);
    await claimFree(file.db, id);
    await fleet.work();
    return { id, told: [...ENQUEUED, 'deferred by worker'] };
  },
  async 'a delivery of a job that crashes too often'(scene) {
    const queue = scene.guarded(() => SECRET);
    // Claimed by a process that is gone; its row says that the one crash was one too many.
    await queue.pause();
    const fleet = scene.fleet({ maxCrashes: 0 });
    const { id } = await scene.enqueue(fleet);
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    await fleet.work();
    const by = await madeBy(scene, id, 'poisoned');
    return { id, told: [...ENQUEUED, `poisoned by ${by}`] };
  },
  async 'the reconciler, of a job that crashes too often'(scene) {
    const { id } = await scene.enqueue(scene.fleet());
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    scene.maintain();
    return { id, told: [...ENQUEUED, 'poisoned by reconciler'] };
  },
  async 'the reconciler, of a job past its deadline'(scene) {
    const { id } = await scene.enqueue(scene.fleet(), { delayMs: HOUR });
    await pastDeadline(id);
    scene.maintain();
    return { id, told: [...ENQUEUED, 'failed by reconciler'] };
  },
  async 'the doctor, of a job past its deadline'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await pastDeadline(id);
    await fleet.doctor({ fix: true, lookAgainMs: 0 });
    return { id, told: [...ENQUEUED, 'failed by doctor'] };
  },
  async 'the reconciler, of a job that Redis has lost'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await (await fleet.queues[0]?.getJob(id))?.remove();
    scene.maintain();
    return { id, told: [...ENQUEUED, 'dispatched by reconciler'] };
  },
  async 'the doctor, of a job that Redis has lost'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await (await fleet.queues[0]?.getJob(id))?.remove();
    await fleet.doctor({ fix: true, lookAgainMs: 0 });
    return { id, told: [...ENQUEUED, 'dispatched by doctor'] };
  },
  async 'a redrive'(scene) {
    const fleet = scene
      .runs(() => {
        throw new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    await failed(scene, fleet, id);
    await fleet.redrive(id);
    const again = ['redriven by client', 'dispatched by client', CLAIMED, 'failed by worker'];
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker', ...again] };
  },
  async 'a redrive of many'(scene) {
    const fleet = scene
      .runs((ctx) => {
        if (ctx.fence === 1) throw new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    await failed(scene, fleet, id);
    await fleet.redriveMany();
    const again = ['redriven by client', 'dispatched by client', CLAIMED, 'completed by worker'];
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker', ...again] };
  },
  async 'a retry in BullMQ'(scene) {
    const fleet = scene
      .runs((ctx) => {
        if (ctx.fence === 1) throw new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    const queue = await failed(scene, fleet, id);
    await (await queue.getJob(id))?.retry();
    const again = ['redriven by worker', CLAIMED, 'completed by worker'];
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker', ...again] };
  },
  async "the board's Retry"(scene) {
    const fleet = scene
      .runs((ctx) => {
        if (ctx.fence === 1) throw new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet);
    await fleet.work();
    const queue = await failed(scene, fleet, id);
    await fleet.operator.retry(queue, id, 'failed');
    const again = ['redriven by board', 'dispatched by board', CLAIMED, 'completed by worker'];
    return { id, told: [...ENQUEUED, CLAIMED, 'failed by worker', ...again] };
  },
  async "the board's Clean, of a job that waits"(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await fleet.operator.remove(fleet.queues[0] as Queue, id);
    return { id, told: [...ENQUEUED, 'cancelled by board'] };
  },
  async "the board's Clean, of a job whose worker died"(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await claimFree(file.db, id);
    await expireLease(file.db, id);
    await fleet.operator.remove(fleet.queues[0] as Queue, id);
    return { id, told: [...ENQUEUED, 'cancelled by board'] };
  },
  async "the board's Obliterate"(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
    await fleet.operator.obliterate(fleet.queues[0] as Queue, { force: true });
    return { id, told: [...ENQUEUED, 'cancelled by board'] };
  },
  async "the board's Add job"(scene) {
    const fleet = scene.fleet();
    const added = { name: 'work', data: { text: SECRET }, options: { delay: HOUR } };
    const { id } = await fleet.operator.add(fleet.queues[0] as Queue, added);
    return { id, told: ['created by board', 'dispatched by board'] };
  },
  async 'an enqueue of a key that is taken'(scene) {
    const fleet = scene.fleet();
    const { id } = await scene.enqueue(fleet, { key: 'k', delayMs: HOUR });
    expect((await scene.enqueue(fleet, { key: 'k' })).outcome).toBe('attached');
    return { id, told: ENQUEUED };
  },
  async "an enqueue in the caller's transaction"(scene) {
    const fleet = scene.fleet();
    const client = await file.pool.connect();
    await client.query('begin');
    const { id } = await scene.enqueue(fleet, { tx: client, delayMs: HOUR });
    expect(scene.of(id)).toEqual([]);
    await client.query('commit');
    client.release();
    return { id, told: ['created by client', 'dispatched by outbox'] };
  },
  async "an enqueue in the caller's transaction, which is rolled back"(scene) {
    const fleet = scene.fleet();
    const client = await file.pool.connect();
    await client.query('begin');
    const { id } = await scene.enqueue(fleet, { tx: client });
    await client.query('rollback');
    client.release();
    await committedAfter(scene, fleet);
    return { id, told: [] };
  },
  async "an enqueue in the caller's transaction, which goes back to a savepoint and commits"(scene) {
    const fleet = scene.fleet();
    const client = await file.pool.connect();
    await client.query('begin');
    await client.query('savepoint before');
    const { id } = await scene.enqueue(fleet, { tx: client });
    await client.query('rollback to savepoint before');
    await client.query('commit');
    client.release();
    await committedAfter(scene, fleet);
    return { id, told: [] };
  },
  async 'a job that another BullMQ client adds to a queue of the fleet'(scene) {
    const fleet = scene.fleet();
    await fleet.queues[0]?.add('work', { text: SECRET });
    await fleet.work();
    const id = await idOfOnly();
    return { id, told: ['created by worker', CLAIMED, 'completed by worker'] };
  },
  async 'a processor that is guarded'(scene) {
    const queue = scene.guarded(() => SECRET);
    await queue.add('charge', { text: SECRET });
    const id = await idOfOnly();
    return { id, told: ['created by worker', CLAIMED, 'completed by worker'] };
  },
  async 'a guarded processor that throws'(scene) {
    const queue = scene.guarded(() => {
      throw new Error(SECRET);
    });
    await queue.add('charge', { text: SECRET }, { attempts: 2 });
    const id = await idOfOnly();
    const told = ['created by worker', CLAIMED, 'retried by worker', CLAIMED, 'failed by worker'];
    return { id, told };
  },
  async 'a guarded processor that puts its job off'(scene) {
    const queue = scene.guarded(async (job) => {
      await job.moveToDelayed(Date.now() + HOUR, job.token);
      throw new DelayedError();
    });
    await queue.add('charge', { text: SECRET });
    const id = await idOfOnly();
    return { id, told: ['created by worker', CLAIMED, 'deferred by worker'] };
  },
  async 'the end of its retention'(scene) {
    const fleet = scene.fleet({ jobRetentionMs: 1_000, resultTtlMs: 1 });
    const handle = await scene.enqueue(fleet, { delayMs: HOUR });
    await handle.cancel();
    await expect.poll(async () => (await fleet.sweep()).removedJobs, { timeout: 15_000, interval: 100 }).toBe(1);
    return { id: handle.id, told: [...ENQUEUED, 'cancelled by client', 'expired by sweeper'] };
  },
};

async function idOfOnly(): Promise<string> {
  const find = async () => (await file.db.selectFrom('jobs').select('id').execute()).map(({ id }) => id);
  await expect.poll(find, POLL).toHaveLength(1);
  return (await find())[0] as string;
}

async function pastDeadline(id: string): Promise<void> {
  await sql`update oncefleet.jobs set deadline_at = clock_timestamp() - interval '1 minute' where id = ${id}`.execute(
    file.db,
  );
  await sql`update oncefleet.unfinished_jobs set end_by = clock_timestamp() - interval '1 minute' where job_id = ${id}`.execute(
    file.db,
  );
}

/** It has failed, BullMQ has been told, and the round with which a worker begins is over: it would dispatch again what it finds in between. */
async function failed(scene: Scene, fleet: Fleet, id: string): Promise<Queue> {
  await expect.poll(() => scene.of(id), POLL).toContain('failed by worker');
  const queue = fleet.queues[0] as Queue;
  await expect.poll(async () => (await queue.getJob(id))?.getState(), POLL).toBe('failed');
  await expect.poll(() => findRoundAge(file.db), POLL).toBeDefined();
  return queue;
}

/** Either may come upon it first. */
async function madeBy(scene: Scene, id: string, type: string): Promise<string> {
  const find = () => scene.seen.find((one) => one.jobId === id && one.type === type)?.by;
  await expect.poll(find, POLL).toBeDefined();
  return find() as string;
}

/** A later transaction has been found committed, so the earlier ones have been looked at. */
async function committedAfter(scene: Scene, fleet: Fleet): Promise<void> {
  const client = await file.pool.connect();
  await client.query('begin');
  const { id } = await scene.enqueue(fleet, { tx: client, delayMs: HOUR });
  await client.query('commit');
  client.release();
  await expect.poll(() => scene.of(id), POLL).toContain('dispatched by outbox');
}

describe('observers are told, once each, of what is done by', () => {
  it.each(Object.keys(WAYS))('%s', async (way) => {
    const scene = new Scene();
    onTestFinished(() => scene.close());
    const { id, told } = await (WAYS[way] as (typeof WAYS)[string])(scene);
    await expect.poll(() => scene.of(id), POLL).toEqual(told);
    // Nothing comes after it either.
    await scene.close();
    expect(scene.of(id)).toEqual(told);
    expect(JSON.stringify(scene.seen)).not.toContain(SECRET);
  });
});

it('the table has every transition', async () => {
  const source = Object.values(WAYS).map(String).join('\n');
  expect(
    TRANSITIONS.filter((type) => !new RegExp(`\\b${type} by\\b`).test(`${source} ${ENQUEUED} ${CLAIMED}`)),
  ).toEqual([]);
});

describe('a transition', () => {
  it('says which job, attempt and fence, when, for how long, and the code of an error', async () => {
    const scene = new Scene();
    onTestFinished(() => scene.close());
    const fleet = scene
      .runs((_, attempt) => {
        throw attempt === 1 ? new Error(SECRET) : new NonRetryableError(SECRET);
      })
      .fleet();
    const { id } = await scene.enqueue(fleet, { tenant: 'acme', delayMs: 1 });
    await fleet.work();
    await failed(scene, fleet, id);
    const job = {
      jobId: id,
      name: 'work',
      queue: 'work',
      tenant: 'acme',
      process: expect.any(String),
      at: expect.any(Date),
    };
    const worker = { ...job, by: 'worker', runMs: undefined, delayMs: undefined, errorCode: undefined };
    const client = { ...job, by: 'client', runMs: undefined, delayMs: undefined, errorCode: undefined };
    expect(scene.seen.filter(({ jobId }) => jobId === id)).toEqual([
      { ...client, type: 'created', attempt: 0, fence: 0, delayMs: 1 },
      { ...client, type: 'dispatched', attempt: undefined, fence: undefined },
      { ...worker, type: 'claimed', attempt: 1, fence: 1 },
      {
        ...worker,
        type: 'retried',
        attempt: 1,
        fence: 1,
        runMs: expect.any(Number),
        delayMs: 0,
        errorCode: 'HANDLER_ERROR',
      },
      { ...worker, type: 'claimed', attempt: 2, fence: 2 },
      { ...worker, type: 'failed', attempt: 2, fence: 2, runMs: expect.any(Number), errorCode: 'NON_RETRYABLE' },
    ]);
  });

  it.each([
    ['cancelled', (fleet: Fleet, id: string) => fleet.cancel(id)],
    ['cancelled', (fleet: Fleet, id: string) => fleet.operator.remove(fleet.queues[0] as Queue, id)],
  ])(
    'that ends a job from outside has its own fence, and the attempts that the job has had (%s)',
    async (type, end) => {
      const scene = new Scene();
      onTestFinished(() => scene.close());
      const fleet = scene.fleet();
      const { id } = await scene.enqueue(fleet, { delayMs: HOUR });
      await claimFree(file.db, id);
      await expireLease(file.db, id);
      await end(fleet, id);
      const last = () => scene.seen.filter(({ jobId }) => jobId === id).at(-1);
      await expect
        .poll(last, POLL)
        .toMatchObject({ type, fence: 2, attempt: 1, errorCode: 'CANCELLED', queue: 'work' });
    },
  );
});
