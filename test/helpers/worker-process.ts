/**
 * A worker process for tests that kill, freeze or interrupt one. Its jobs are steered over
 * IPC: `{type: 'running', jobId, fence}` when a handler has begun, then the parent's orders.
 */
import { setImmediate } from 'node:timers/promises';
import { sql } from 'kysely';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import { blockEventLoop } from './block.ts';

export interface WorkerProcessOptions {
  databaseUrl: string;
  redisUrl: string;
  prefix: string;
  leaseTtlMs: number;
  heartbeatMs: number;
  /** How long events wait to be committed. */
  lingerMs?: number;
}

/** Kills its process in the middle of its first attempt; a later attempt emits to the end. */
export const streamJob = defineJob({
  name: 'stream',
  input: z.object({ events: z.number() }),
  async run(input, ctx) {
    for (let i = 0; i < input.events; i++) {
      await ctx.emit({ type: 'number', i, attempt: ctx.attempt });
      if (ctx.attempt === 1 && i === Math.floor(input.events / 2)) {
        await ctx.flush();
        // One more is buffered, and lost with the process before its flush can start.
        process.send?.({ type: 'dying', jobId: ctx.jobId }, () => {
          void ctx.emit({ type: 'number', i: -1, attempt: 1 });
          process.kill(process.pid, 'SIGKILL');
        });
        await new Promise(() => undefined);
      }
    }
    return { attempt: ctx.attempt };
  },
});

/** Commits half of its events; in its first attempt the rest is published, and waits to be committed for as long as events linger. */
export const aheadJob = defineJob({
  name: 'ahead',
  publish: 'immediate',
  input: z.object({ events: z.number() }),
  async run(input, ctx) {
    for (let i = 0; i < input.events; i++) {
      await ctx.emit({ type: 'number', i, attempt: ctx.attempt });
      if (i !== Math.floor(input.events / 2)) continue;
      await ctx.flush();
      // What comes while a flush is under way does not linger.
      await setImmediate();
    }
    // It is killed here. A freeze when the commit begins would be too soon now and then: Redis may not have them yet.
    if (ctx.attempt === 1) await new Promise(() => undefined);
    await ctx.flush();
    return { attempt: ctx.attempt };
  },
});

/** Begins, waits for an order, then tries every kind of write and says how each went. */
export const zombieJob = defineJob({
  name: 'zombie',
  input: z.object({}),
  async run(_input, ctx) {
    await ctx.emit({ type: 'begun', attempt: ctx.attempt });
    await ctx.flush();
    if (ctx.attempt > 1) {
      await ctx.transaction(async (trx) => {
        await sql`insert into effects (job_id, attempt) values (${ctx.jobId}, ${ctx.attempt})`.execute(trx);
      });
      return 'second';
    }
    const ordered = new Promise((resolve) => process.once('message', resolve));
    process.send?.({ type: 'running', jobId: ctx.jobId, fence: ctx.fence });
    await ordered;
    const outcomes: Record<string, string> = {};
    const tries: Record<string, () => Promise<unknown>> = {
      emit: async () => {
        await ctx.emit({ type: 'late' });
        await ctx.flush();
      },
      checkpoint: () => ctx.checkpoint({ late: true }),
      transaction: () =>
        ctx.transaction(async (trx) => {
          await sql`insert into effects (job_id, attempt) values (${ctx.jobId}, ${ctx.attempt})`.execute(trx);
        }),
    };
    for (const [name, attempt] of Object.entries(tries)) {
      outcomes[name] = await attempt().then(
        () => 'accepted',
        (error: { code?: string }) => error.code ?? String(error),
      );
    }
    process.send?.({ type: 'tried', outcomes, aborted: (ctx.signal.reason as { code?: string } | undefined)?.code });
    return 'first';
  },
});

/** Crashes its process, every time. */
export const poisonJob = defineJob({
  name: 'poison',
  input: z.object({}),
  maxCrashes: 1,
  run: async () => process.kill(process.pid, 'SIGKILL') as never,
});

/** Blocks the event loop for so many ms. */
export const blockJob = defineJob({
  name: 'block',
  input: z.object({ ms: z.number() }),
  async run(input) {
    blockEventLoop(input.ms);
    return 'done';
  },
});

export const testJobs = [streamJob, aheadJob, zombieJob, poisonJob, blockJob];

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] as string) as WorkerProcessOptions;
  const fleet = createFleet({ ...options, jobs: testJobs, databasePoolSize: 3, reconcileMs: 300 });
  await fleet.work();
  process.send?.({ type: 'ready' });
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
}
