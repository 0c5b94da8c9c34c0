/**
 * A process for tests of crash points: works, or does a client's order over IPC, and sends
 * itself SIGKILL or SIGSTOP when it comes to the point that it is armed with. SIGTERM ends it
 * as it ends a worker.
 */
import { subscribe } from 'node:diagnostics_channel';
import { readSync } from 'node:fs';
import { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { sql, type Transaction } from 'kysely';
import { pino } from 'pino';
import { z } from 'zod';
import { CRASH_POINT_CHANNEL, type CrashPoint } from '../../src/crash-points.ts';
import type { QualifiedDatabase } from '../../src/db/own-schema.ts';
import { defineJob, type JobContext, NonRetryableError } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import { blockEventLoop } from './block.ts';

export interface CrashProcessOptions {
  databaseUrl: string;
  redisUrl: string;
  prefix: string;
  leaseTtlMs: number;
  heartbeatMs: number;
  /** Without one nothing happens to it. */
  point: CrashPoint | undefined;
  /** BLOCK: the event loop stands still there until the test writes to stdin; threads go on. */
  signal: 'SIGKILL' | 'SIGSTOP' | 'BLOCK';
  /** `worker` runs jobs and reconciles, `reconciler` only reconciles, `client` waits for an order. */
  role: 'worker' | 'reconciler' | 'client';
  reconcileMs: number;
  /** Come to it this many times before it counts. */
  skip: number;
}

/** What the test tells a process to do. */
export type Order =
  | { type: 'enqueue'; key: string; how: StepsInput['how']; inTransaction?: boolean; delayMs?: number }
  | { type: 'cancel'; id: string }
  | { type: 'redrive'; id: string }
  /** Handlers that wait for it go on, all in one turn of the event loop. */
  | { type: 'go' }
  /** Answered once what was published before has reached Redis. */
  | { type: 'ping' };

/** What a process says: that it is ready, a line of its log, the answer to a ping, or what a handler tells. */
export type Word = { ready: true } | { log: string } | { pong: true } | { said: string };

const stepsInput = z.object({
  how: z.enum([
    'complete',
    'return',
    'throw',
    'silent',
    'refuse',
    'refuse-silent',
    'effect',
    'own-transaction',
    'overlap',
    'quiet',
    'long',
    'wait',
    'wait-silent',
    'deaf',
    'last-checkpoint',
    'flush-late',
    'block',
    'poison',
  ]),
});
export type StepsInput = z.infer<typeof stepsInput>;

const IS_PROCESS = import.meta.main;
const go = Promise.withResolvers<void>();
/** Calls that wait for this process to come to a point. */
const reached = new Map<CrashPoint, () => void>();

/** Tells the test; a fleet of the test itself says nothing. */
function say(said: string): void {
  if (IS_PROCESS) process.send?.({ said } satisfies Word);
}

/** In a process: until the test says so, or the run is aborted. */
async function told(ctx: JobContext): Promise<void> {
  if (!IS_PROCESS) return;
  const aborted = new Promise<void>((resolve) => ctx.signal.addEventListener('abort', () => resolve()));
  await Promise.race([go.promise, aborted]);
}

/** Nothing but the fence keeps this from being there twice. */
async function insertEffect(trx: Transaction<QualifiedDatabase>, ctx: JobContext): Promise<void> {
  await sql`insert into effects (job_id) values (${ctx.jobId})`.execute(trx);
}

/** Those that end in another way than the rest. */
const OTHERS: Partial<Record<StepsInput['how'], (ctx: JobContext) => Promise<unknown>>> = {
  silent: async () => ({ how: 'silent' }),
  async 'refuse-silent'(ctx) {
    if (ctx.fence === 1) throw new NonRetryableError('refused');
    await ctx.emit({ type: 'step', step: 1 });
    return { how: 'refuse-silent' };
  },
  /** An effect that recognises itself, in a transaction without the outcome. */
  async effect(ctx) {
    await ctx.transaction(async (trx) => {
      const there = await sql`select from effects where job_id = ${ctx.jobId}`.execute(trx);
      if (there.rows.length === 0) await insertEffect(trx, ctx);
    });
    return { how: 'effect' };
  },
  async 'own-transaction'(ctx) {
    await ctx.db.transaction().execute(async (trx) => {
      await insertEffect(trx, ctx);
      await ctx.complete(trx, { how: 'own-transaction' });
    });
  },
  /** Emits while its checkpoint is being saved. */
  async overlap(ctx) {
    if (ctx.resumedFrom === undefined) {
      await ctx.emit({ type: 'step', step: 1 });
      const saved = ctx.checkpoint({ done: 1 });
      await ctx.emit({ type: 'step', step: 2 });
      await saved;
    } else await ctx.emit({ type: 'step', step: 2 });
    return { how: 'overlap' };
  },
  /** Forty commits. */
  async long(ctx) {
    for (let step = 0; step < 40; step++) {
      await ctx.emit({ type: 'step', step });
      await ctx.flush();
    }
    return { how: 'long' };
  },
  /** Says one thing, and nothing that would flush it. */
  async quiet(ctx) {
    await ctx.emit({ type: 'step', step: 1 });
    await told(ctx);
    return { how: 'quiet' };
  },
  async wait(ctx) {
    await ctx.emit({ type: 'step', step: 1 });
    await ctx.flush();
    say('running');
    await told(ctx);
    if (!ctx.signal.aborted) {
      await ctx.emit({ type: 'step', step: 2 });
      // Not left to the outcome: several that go on together share a statement.
      await ctx.flush();
    }
    return { how: 'wait', stoppedEarly: ctx.signal.aborted };
  },
  /** Returns early when it is told to stop, as many handlers do. */
  async 'wait-silent'(ctx) {
    say('running');
    await told(ctx);
    if (ctx.signal.aborted) say('stopped');
    return { how: 'wait-silent', stoppedEarly: ctx.signal.aborted };
  },
  async deaf() {
    say('running');
    if (IS_PROCESS) await new Promise(() => undefined);
    return { how: 'deaf' };
  },
  async 'last-checkpoint'(ctx) {
    await ctx.checkpoint({ done: 1 });
    say('saved');
    return { how: 'last-checkpoint' };
  },
  /** Flushes when nothing is buffered any more and nothing is committed yet. */
  async 'flush-late'(ctx) {
    const inFlight = new Promise<void>((resolve) => reached.set('append.before', resolve));
    await ctx.emit({ type: 'step', step: 1 });
    if (!IS_PROCESS) return { how: 'flush-late' };
    await inFlight;
    const flushed = ctx.flush();
    say('in flight');
    await flushed;
    say('flushed');
    return { how: 'flush-late' };
  },
  /** Says what a test has Postgres refuse, and returns when it is told to, aborted or not. */
  async poison(ctx) {
    await ctx.emit({ type: 'step', text: 'poison' });
    await ctx.flush().catch(() => undefined);
    say('refused');
    if (IS_PROCESS) await go.promise;
    return { how: 'poison' };
  },
  /** Blocks the event loop, then gives timers their turn. */
  async block(ctx) {
    if (IS_PROCESS) blockEventLoop(6_500);
    await delay(50);
    return { how: 'block', aborted: ctx.signal.aborted };
  },
};

async function runSteps({ how }: StepsInput, ctx: JobContext): Promise<unknown> {
  const other = OTHERS[how];
  if (other !== undefined) return other(ctx);
  if (ctx.resumedFrom === undefined) {
    await ctx.emit({ type: 'step', step: 1 });
    await ctx.checkpoint({ done: 1 });
  }
  await ctx.emit({ type: 'step', step: 2 });
  await ctx.flush();
  if (how === 'throw' && ctx.attempt === 1) throw new Error('the first attempt fails');
  if (how === 'refuse') throw new NonRetryableError('refused');
  if (how !== 'complete') return { how };
  return ctx.transaction(async (trx) => {
    await insertEffect(trx, ctx);
    await ctx.complete(trx, { how });
    return { how };
  });
}

/** Jobs of this process whose poison was told of. */
export const poisonAlerts: string[] = [];

const policy = {
  attempts: 3,
  backoff: { type: 'fixed', delayMs: 0, jitter: 0 },
  maxCrashes: 1,
  input: stepsInput,
  run: runSteps,
  onPoison: ({ jobId }: { jobId: string }) => void poisonAlerts.push(jobId),
} as const;

/** Events, a checkpoint between them, and an effect; ends in each of the ways a run can end. */
export const stepsJob = defineJob({ name: 'steps', ...policy });

/** The same, with events published ahead of their commit. */
export const aheadJob = defineJob({ name: 'ahead', queue: 'steps', publish: 'immediate', ...policy });

/** For a worker whose queue stays empty. */
const idleJob = defineJob({ name: 'idle', input: z.object({}), run: async () => undefined });

if (IS_PROCESS) {
  const { point, signal, role, skip, ...options } = JSON.parse(process.argv[2] as string) as CrashProcessOptions;
  let armed = role !== 'client';
  let left = skip;
  subscribe(CRASH_POINT_CHANNEL, (message) => {
    const at = (message as { point: CrashPoint }).point;
    reached.get(at)?.();
    if (!armed || at !== point || left-- > 0) return;
    armed = false;
    if (signal !== 'BLOCK') process.kill(process.pid, signal);
    else {
      say('blocked');
      readSync(0, Buffer.alloc(1));
    }
  });
  const lines = new Writable({
    write(line: Buffer, _encoding, done) {
      process.send?.({ log: (JSON.parse(line.toString()) as { msg: string }).msg } satisfies Word);
      done();
    },
  });
  const log = pino({ level: 'warn' }, lines);
  const fleet = createFleet({
    ...options,
    log,
    jobs: [stepsJob, aheadJob, idleJob],
    databasePoolSize: 3,
    shutdownMs: 100,
  });
  const obey: { [T in Order['type']]: (order: Extract<Order, { type: T }>) => unknown } = {
    enqueue: ({ key, how, inTransaction = false, delayMs = 0 }) =>
      inTransaction
        ? fleet.db.transaction().execute((tx) => fleet.enqueue(stepsJob, { how }, { key, delayMs, tx }))
        : fleet.enqueue(stepsJob, { how }, { key, delayMs }),
    cancel: ({ id }) => fleet.cancel(id),
    redrive: ({ id }) => fleet.redrive(id),
    go: () => go.resolve(),
    // The same connection that publishes answers it.
    ping: () => fleet.health().then(() => process.send?.({ pong: true } satisfies Word)),
  };
  process.on('message', (order: Order) => {
    if (role === 'client') armed = true;
    void (obey[order.type] as (order: Order) => unknown)(order);
  });
  process.once('SIGTERM', () => void fleet.close().then(() => process.exit(0)));
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
  await fleet.health();
  if (role !== 'client') await fleet.work({ jobs: [role === 'worker' ? 'steps' : 'idle'] });
  process.send?.({ ready: true } satisfies Word);
}
