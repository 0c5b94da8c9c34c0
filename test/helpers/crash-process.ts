/**
 * A process for tests of crash points: works, or does a client's order over IPC, and sends
 * itself SIGKILL or SIGSTOP when it comes to the point that it is armed with.
 */
import { subscribe } from 'node:diagnostics_channel';
import { Writable } from 'node:stream';
import { sql } from 'kysely';
import { pino } from 'pino';
import { z } from 'zod';
import { CRASH_POINT_CHANNEL, type CrashPoint } from '../../src/crash-points.ts';
import { defineJob } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';

export interface CrashProcessOptions {
  databaseUrl: string;
  redisUrl: string;
  prefix: string;
  leaseTtlMs: number;
  heartbeatMs: number;
  point: CrashPoint;
  signal: 'SIGKILL' | 'SIGSTOP';
  /** `worker` runs jobs and reconciles, `reconciler` only reconciles, `client` waits for an order. */
  role: 'worker' | 'reconciler' | 'client';
}

/** What the test tells a `client` to do. */
export type Order =
  | { type: 'enqueue'; key: string; how: StepsInput['how'] }
  | { type: 'cancel'; id: string }
  | { type: 'redrive'; id: string };

const stepsInput = z.object({ how: z.enum(['complete', 'return', 'throw', 'silent']) });
type StepsInput = z.infer<typeof stepsInput>;

/** Events, a checkpoint between them, and an effect; ends in each of the ways a run can end. */
export const stepsJob = defineJob({
  name: 'steps',
  input: stepsInput,
  attempts: 3,
  backoff: { type: 'fixed', delayMs: 0, jitter: 0 },
  maxCrashes: 1,
  async run({ how }, ctx) {
    if (how === 'silent') return { how };
    if (ctx.resumedFrom === undefined) {
      await ctx.emit({ type: 'step', step: 1 });
      await ctx.checkpoint({ done: 1 });
    }
    await ctx.emit({ type: 'step', step: 2 });
    await ctx.flush();
    if (how === 'throw' && ctx.attempt === 1) throw new Error('the first attempt fails');
    if (how !== 'complete') return { how };
    return ctx.transaction(async (trx) => {
      // Nothing but the fence keeps this from being there twice.
      await sql`insert into effects (job_id) values (${ctx.jobId})`.execute(trx);
      await ctx.complete(trx, { how });
      return { how };
    });
  },
});

/** For a worker whose queue stays empty. */
const idleJob = defineJob({ name: 'idle', input: z.object({}), run: async () => undefined });

if (import.meta.main) {
  const { point, signal, role, ...options } = JSON.parse(process.argv[2] as string) as CrashProcessOptions;
  let armed = role !== 'client';
  subscribe(CRASH_POINT_CHANNEL, (message) => {
    if (!armed || (message as { point: CrashPoint }).point !== point) return;
    armed = false;
    process.kill(process.pid, signal);
  });
  const lines = new Writable({
    write(line: Buffer, _encoding, done) {
      process.send?.({ log: (JSON.parse(line.toString()) as { msg: string }).msg });
      done();
    },
  });
  const log = pino({ level: 'warn' }, lines);
  const fleet = createFleet({ ...options, log, jobs: [stepsJob, idleJob], databasePoolSize: 3, reconcileMs: 200 });
  process.on('message', (order: Order) => {
    armed = true;
    if (order.type === 'enqueue') void fleet.enqueue(stepsJob, { how: order.how }, { key: order.key });
    else if (order.type === 'cancel') void fleet.cancel(order.id);
    else void fleet.redrive(order.id);
  });
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
  await fleet.health();
  if (role !== 'client') await fleet.work({ jobs: [role === 'worker' ? 'steps' : 'idle'] });
  process.send?.({ ready: true });
}
