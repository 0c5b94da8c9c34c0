/** The jobs of a chaos run, loaded by its web and worker processes as any user's would be. */
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import { defineJob, type JobContext, NonRetryableError } from 'oncefleet';
import { z } from 'zod';
import { type HandlerEntry, type Kind, record } from './history.ts';
import { hash } from './random.ts';
import { MAX_BLOCK_MS, POISON_CRASHES } from './settings.ts';

const HISTORY = process.env.CHAOS_HANDLERS ?? '';

/** Enough for every fault of a run: a job that fails only because it was hit too often would look like a lost one. */
const PLENTY = {
  attempts: 1_000,
  maxCrashes: 100_000,
  backoff: { type: 'fixed', delayMs: 200, maxDelayMs: 500 },
} as const;

/** Ends a run whose own statement hangs on a connection that went half-open. */
const TIMEOUT_MS = 12_000;

const keyed = z.object({ key: z.string() });

/** Inserts a row and completes in the same transaction. */
export const effectJob = defineJob({
  name: 'chaos-effect',
  queue: 'chaos',
  ...PLENTY,
  timeoutMs: TIMEOUT_MS,
  input: keyed.extend({ pauseMs: z.number() }),
  async run({ key, pauseMs }, ctx) {
    start(ctx, key, 'effect');
    await ctx.emit({ type: 'about-to', key });
    await delay(pauseMs);
    await guarded(ctx, 'transaction', () =>
      ctx.transaction(async (trx) => {
        await sql`insert into chaos_effects (key, step, job_id, fence) values (${key}, 1, ${ctx.jobId}, ${ctx.fence})`.execute(
          trx,
        );
        await delay(pauseMs / 4);
        await ctx.complete(trx, { key, by: `${ctx.fence}/${Math.random()}` });
      }),
    );
    note({ type: 'effect', jobId: ctx.jobId, key, fence: ctx.fence, step: 1 });
  },
});

/** Writes steps 1 to n, each after reading the last: nothing but the fence keeps two runs from writing the same step. */
export const ledgerJob = defineJob({
  name: 'chaos-ledger',
  queue: 'chaos',
  ...PLENTY,
  timeoutMs: TIMEOUT_MS,
  input: keyed.extend({ steps: z.number(), pauseMs: z.number() }),
  async run({ key, steps, pauseMs }, ctx) {
    start(ctx, key, 'ledger');
    for (;;) {
      // The signal is not looked at on purpose: what a run that lost its lease writes must be refused.
      const step = await guarded(ctx, 'transaction', () =>
        ctx.transaction(async (trx) => {
          const last = await sql<{
            step: number;
          }>`select coalesce(max(step), 0) as step from chaos_effects where key = ${key}`.execute(trx);
          const next = (last.rows[0]?.step ?? 0) + 1;
          if (next > steps) return undefined;
          await sql`insert into chaos_effects (key, step, job_id, fence) values (${key}, ${next}, ${ctx.jobId}, ${ctx.fence})`.execute(
            trx,
          );
          return next;
        }),
      );
      if (step === undefined) break;
      note({ type: 'effect', jobId: ctx.jobId, key, fence: ctx.fence, step });
      await ctx.emit({ type: 'step', step });
      await delay(pauseMs);
    }
    note({ type: 'returned', jobId: ctx.jobId, fence: ctx.fence });
    return { steps, by: `${ctx.fence}/${Math.random()}` };
  },
});

/** Thousands of events, with checkpoints to continue from. */
export const streamJob = defineJob({
  name: 'chaos-stream',
  queue: 'chaos',
  ...PLENTY,
  timeoutMs: 60_000,
  input: keyed.extend({ events: z.number(), pauseMs: z.number() }),
  async run({ key, events, pauseMs }, ctx) {
    start(ctx, key, 'stream');
    const from = (ctx.resumedFrom as { next: number } | undefined)?.next ?? 0;
    for (let n = from; n < events; n++) {
      await guarded(ctx, 'emit', () =>
        ctx.emit({ type: 'number', n, text: `${key} \u0000 \ud83d ${'x'.repeat(hash(`${key}${n}`) % 60)}` }),
      );
      if (n % 250 === 249) {
        await guarded(ctx, 'flush', () => ctx.flush());
        note({ type: 'flushed', jobId: ctx.jobId, fence: ctx.fence, events: n + 1 - from });
        await guarded(ctx, 'checkpoint', () => ctx.checkpoint({ next: n + 1 }));
        await delay(pauseMs);
      }
    }
    note({ type: 'returned', jobId: ctx.jobId, fence: ctx.fence });
    return { events, by: `${ctx.fence}/${Math.random()}` };
  },
});

/** Runs of a job that block for as long as they are told to. */
const LONG_BLOCKS = 2;

/**
 * Blocks the event loop, at times longer than a lease is kept for it. Its cap is as high as
 * all others', so it would for ever: whoever is idle takes it over before it has returned.
 */
export const blockJob = defineJob({
  name: 'chaos-block',
  queue: 'chaos',
  ...PLENTY,
  input: keyed.extend({ ms: z.number() }),
  async run({ key, ms }, ctx) {
    start(ctx, key, 'block');
    const blockMs = ctx.attempt <= LONG_BLOCKS ? ms : Math.min(ms, MAX_BLOCK_MS);
    const until = process.hrtime.bigint() + BigInt(blockMs) * 1_000_000n;
    while (process.hrtime.bigint() < until);
    note({ type: 'returned', jobId: ctx.jobId, fence: ctx.fence });
    return { blockedMs: blockMs, by: `${ctx.fence}/${Math.random()}` };
  },
});

/** Throws now and then, and ends well. */
export const throwJob = defineJob({
  name: 'chaos-throw',
  queue: 'chaos',
  ...PLENTY,
  input: keyed,
  async run({ key }, ctx) {
    start(ctx, key, 'throw');
    await ctx.emit({ type: 'trying', fence: ctx.fence });
    if (hash(`${key}/${ctx.fence}`) % 3 !== 0) throw new Error('thrown on purpose');
    return { by: `${ctx.fence}/${Math.random()}` };
  },
});

/** Fails at once and for good. */
export const refuseJob = defineJob({
  name: 'chaos-refuse',
  queue: 'chaos',
  ...PLENTY,
  input: keyed,
  async run({ key }, ctx) {
    start(ctx, key, 'refuse');
    throw new NonRetryableError('refused on purpose');
  },
});

/** Does nothing until it is told to stop. */
export const hangJob = defineJob({
  name: 'chaos-hang',
  queue: 'chaos',
  ...PLENTY,
  input: keyed,
  async run({ key }, ctx) {
    start(ctx, key, 'hang');
    await ctx.emit({ type: 'waiting' });
    await delay(600_000, undefined, { signal: ctx.signal });
    return 'never';
  },
});

/** Kills its process, every time. */
export const poisonJob = defineJob({
  name: 'chaos-poison',
  queue: 'chaos',
  ...PLENTY,
  maxCrashes: POISON_CRASHES,
  input: keyed,
  async run({ key }, ctx) {
    start(ctx, key, 'poison');
    process.kill(process.pid, 'SIGKILL');
    await delay(600_000);
  },
});

function start(ctx: JobContext, key: string, kind: Kind): void {
  note({ type: 'start', jobId: ctx.jobId, key, kind, fence: ctx.fence });
}

/** Records a refusal on its way through. */
async function guarded<T>(ctx: JobContext, what: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const { code = 'none', message } = error as Error & { code?: string };
    note({ type: 'refused', jobId: ctx.jobId, fence: ctx.fence, what, code, why: message });
    throw error;
  }
}

function note(entry: HandlerEntry): void {
  if (HISTORY !== '') record(HISTORY, entry);
}
