/** Handlers that do not await what their context gives them, as code around an emitter does. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Transaction } from 'kysely';
import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobContext } from '../../src/index.ts';
import { tellJob } from '../../src/runs/reads.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();
const WAIT = { timeout: 10_000, interval: 20 };

/** Every promise that a context gives out, each in a call that is refused once the run is over. */
const AFTERWARDS: Record<string, (ctx: JobContext) => Promise<unknown>> = {
  emit: (ctx) => ctx.emit({ type: 'late' }),
  progress: (ctx) => ctx.progress({ done: 1 }),
  flush: (ctx) => ctx.flush(),
  checkpoint: (ctx) => ctx.checkpoint(1),
  transaction: (ctx) => ctx.transaction(async () => undefined),
  complete: (ctx) => ctx.transaction((trx) => ctx.complete(trx, 1)),
};

/** Calls that are refused at once. */
const AT_ONCE: typeof AFTERWARDS = {
  'emit of what is no event': (ctx) => ctx.emit({} as never),
  'progress without a number': (ctx) => ctx.progress({ done: 'half' } as never),
  'checkpoint of what is no JSON': (ctx) => ctx.checkpoint(1n),
  'transaction whose effects fail': (ctx) => ctx.transaction(() => Promise.reject(new Error('no effect'))),
  'complete outside a transaction': (ctx) => ctx.complete(undefined as unknown as Transaction<unknown>, 1),
};

interface Line {
  level: number;
  msg: string;
  jobId?: string;
}

function logged() {
  const lines: Line[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const rejections: unknown[] = [];
  const collect = (reason: unknown) => void rejections.push(reason);
  process.on('unhandledRejection', collect);
  onTestFinished(() => void process.off('unhandledRejection', collect));
  const unread = (jobId: string) => lines.filter((line) => line.jobId === jobId && line.msg.includes('nobody awaited'));
  return { log, rejections, unread };
}

it.each(Object.entries(AFTERWARDS))(
  'a %s that nobody awaits, after a cancel, is in the log of its job alone',
  async (_name, call) => {
    const { log, rejections, unread } = logged();
    const running = Promise.withResolvers<JobContext>();
    const job = defineJob({
      name: 'careless',
      input: z.object({}),
      run: (_input, ctx) =>
        new Promise<void>((resolve) => {
          ctx.signal.addEventListener('abort', () => resolve());
          running.resolve(ctx);
        }),
    });
    const fleet = createTestFleet(file.url, [job], { log });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    const ctx = await running.promise;
    await ctx.emit({ type: 'said' });
    await handle.cancel();
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
    // What a timer of the handler goes on doing.
    for (let i = 0; i < 3; i++) void call(ctx);
    const error = await call(ctx).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    // Everything was flushed before the end.
    if (call === AFTERWARDS.flush) expect(error).toBeUndefined();
    else {
      expect(error).toBeInstanceOf(Error);
      await expect.poll(() => unread(handle.id), WAIT).toHaveLength(1);
    }
    expect(rejections).toEqual([]);
  },
);

it.each(Object.entries(AT_ONCE))('a %s that nobody awaits leaves its run alone', async (_name, call) => {
  const { log, rejections, unread } = logged();
  const job = defineJob({
    name: 'careless',
    input: z.object({}),
    async run(_input, ctx) {
      void call(ctx);
      await expect.poll(() => unread(ctx.jobId), WAIT).toHaveLength(1);
      return 'done';
    },
  });
  const fleet = createTestFleet(file.url, [job], { log });
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  expect(await handle.result({ timeoutMs: 15_000 })).toBe('done');
  expect(rejections).toEqual([]);
});

it('what a handler makes of a promise is its own, and is told of under its job', async () => {
  const { log, unread } = logged();
  const job = defineJob({
    name: 'careless',
    input: z.object({}),
    async run(_input, ctx) {
      const callback = async () => ctx.emit({} as never);
      const error = await callback().catch((reason: unknown) => reason);
      const [all] = await Promise.allSettled([ctx.emit({} as never)]);
      // What is unread is told by the next turn of the event loop.
      for (let turn = 0; turn < 3; turn++) await nextTurn();
      const told = [unread(ctx.jobId).length, all?.status];
      return [...told, tellJob(error), tellJob(new Error('of nobody')), unread(ctx.jobId).length];
    },
  });
  const fleet = createTestFleet(file.url, [job], { log });
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  expect(await handle.result({ timeoutMs: 15_000 })).toEqual([0, 'rejected', true, false, 1]);
});
