import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { setImmediate } from 'node:timers/promises';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { CRASH_POINT_CHANNEL } from '../../src/crash-points.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Guard } from '../../src/runs/guard.ts';
import { proxied } from '../helpers/doomed.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

const SHORT_JOBS = 40;

/** Jobs that end at once, or when their gate opens; who runs how many is told. */
function stage(concurrency: number) {
  const prefix = uniquePrefix();
  const gates = new Map<string, PromiseWithResolvers<void>>();
  const started: string[] = [];
  let running = 0;
  let most = 0;
  const job = defineJob({
    name: 'gated',
    input: z.object({ gate: z.string().optional() }),
    async run({ gate }, ctx) {
      started.push(ctx.key ?? '');
      most = Math.max(most, ++running);
      if (gate !== undefined) await gates.get(gate)?.promise;
      running--;
      return ctx.key;
    },
  });
  const fleet = () => createTestFleet(file.url, [job], { prefix, tenant: prefix, concurrency, reconcileMs: 60_000 });
  const gate = (name: string) => {
    const opening = Promise.withResolvers<void>();
    gates.set(name, opening);
    onTestFinished(() => opening.resolve());
    return opening;
  };
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const queue = new Queue('gated', { connection: redis, prefix });
  onTestFinished(async () => {
    await queue.close();
    redis.disconnect();
  });
  return { fleet, gate, queue, started, most: () => most };
}

/** Enough short handlers for a worker to take jobs in reserve. */
async function runShort(fleet: ReturnType<ReturnType<typeof stage>['fleet']>) {
  const handles = await Promise.all(
    Array.from({ length: SHORT_JOBS }, (_, i) => fleet.enqueue('gated', {}, { key: `short-${i}` })),
  );
  await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
}

it('a run whose claim is under way when its worker ends is an interruption, and its handler does not start', async () => {
  const { proxy, url } = await proxied(file.url);
  const prefix = uniquePrefix();
  let started = false;
  const job = defineJob({
    name: 'late',
    input: z.object({}),
    run() {
      started = true;
    },
  });
  const client = createTestFleet(file.url, [job], { prefix });
  const fleet = createTestFleet(url, [job], { prefix, leaseTtlMs: 60_000, heartbeatMs: 20_000, reconcileMs: 60_000 });
  const worker = await fleet.work();
  const held = Promise.withResolvers<void>();
  const onPoint = (message: unknown) => {
    if ((message as { point: string }).point !== 'claim.before') return;
    proxy.set({ kind: 'hold' });
    held.resolve();
  };
  subscribe(CRASH_POINT_CHANNEL, onPoint);
  onTestFinished(() => void unsubscribe(CRASH_POINT_CHANNEL, onPoint));
  const { id } = await client.enqueue(job, {});
  await held.promise;
  const interrupt = vi.spyOn(Guard.prototype, 'interrupt');
  onTestFinished(() => interrupt.mockRestore());
  const closing = worker.close({ timeoutMs: 0 });
  await expect.poll(() => interrupt.mock.calls.length, { timeout: 10_000 }).toBe(1);
  proxy.set({ kind: 'open' });
  await closing;
  expect(await client.get(id)).toMatchObject({ status: 'pending', fence: 1, interruptionCount: 1, crashCount: 0 });
  expect(started).toBe(false);
});

describe('jobs that a worker takes while the outcomes of others are committed', () => {
  it.each([1, 3])('never make more than %i handlers run at once', async (concurrency) => {
    const { fleet, gate, started, most } = stage(concurrency);
    const one = fleet();
    await one.work();
    await runShort(one);
    const { resolve: open } = gate('all');
    const handles = await Promise.all(
      Array.from({ length: 10 }, (_, i) => one.enqueue('gated', { gate: 'all' }, { key: `gated-${i}` })),
    );
    await expect.poll(() => started.length, { timeout: 10_000 }).toBe(SHORT_JOBS + concurrency);
    open();
    await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    expect(most()).toBe(concurrency);
  });

  it('are not claimed before a handler is free for them, and go to another worker when none is', async () => {
    const { fleet, gate, queue, started } = stage(1);
    const one = fleet();
    await one.work();
    await runShort(one);
    const { resolve: open } = gate('long');
    const long = await one.enqueue('gated', { gate: 'long' }, { key: 'long' });
    await expect.poll(() => started.includes('long'), { timeout: 10_000 }).toBe(true);
    const behind = await Promise.all(['a', 'b', 'c'].map((key) => one.enqueue('gated', {}, { key })));
    // The long handler holds the one slot: what was taken in reserve is back in the queue, unclaimed.
    await expect
      .poll(() => queue.getJobCounts('active', 'waiting'), { timeout: 10_000 })
      .toMatchObject({ active: 1, waiting: 3 });
    for (const handle of behind)
      expect(await one.get(handle.id)).toMatchObject({ status: 'pending', crashCount: 0, interruptionCount: 0 });
    const other = fleet();
    await other.work();
    expect(await Promise.all(behind.map((handle) => handle.result({ timeoutMs: 10_000 })))).toEqual(['a', 'b', 'c']);
    open();
    expect(await long.result({ timeoutMs: 10_000 })).toBe('long');
  });

  it('go back to their queue when their worker closes, however long its reconciler takes to end', async () => {
    const { fleet, gate, queue, started } = stage(1);
    const round = Promise.withResolvers<void>();
    const close = Reconciler.prototype.close;
    const reconciler = vi.spyOn(Reconciler.prototype, 'close').mockImplementationOnce(async function (
      this: Reconciler,
    ) {
      await round.promise;
      return close.call(this);
    });
    onTestFinished(() => reconciler.mockRestore());
    const one = fleet();
    const worker = await one.work();
    await runShort(one);
    const { resolve: open } = gate('long');
    await one.enqueue('gated', { gate: 'long' }, { key: 'long' });
    await expect.poll(() => started.includes('long'), { timeout: 10_000 }).toBe(true);
    const behind = await one.enqueue('gated', {}, { key: 'behind' });
    const closing = worker.close({ timeoutMs: 10_000 });
    await expect.poll(() => queue.getJobCounts('active', 'waiting')).toMatchObject({ active: 1, waiting: 1 });
    open();
    await expect.poll(() => queue.getJobCounts('active')).toEqual({ active: 0 });
    round.resolve();
    await closing;
    expect(await one.get(behind.id)).toMatchObject({ status: 'pending', interruptionCount: 0 });
  });
});

it('a fleet that is closed leaves no timer behind, which would keep its process alive', async () => {
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const fleet = createTestFleet(file.url, [defineJob({ name: 'one', input: z.object({}), run: () => 1 })]);
  await fleet.work();
  await (await fleet.enqueue('one', {})).result({ timeoutMs: 20_000 });
  await fleet.close();
  // Short ones of the drivers may end yet. Polled without a timer, and for less than BullMQ is waited for.
  const asked = performance.now();
  while (timers() > 0 && performance.now() - asked < 1_500) await setImmediate();
  expect(timers()).toBe(0);
});
