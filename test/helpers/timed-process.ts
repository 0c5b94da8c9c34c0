/** A worker or a client in a process of its own, for tests whose clock is not the test's. */
import { z } from 'zod';
import { defineJob, RetryAfterError } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';

export interface TimedProcessOptions {
  databaseUrl: string;
  redisUrl: string;
  prefix: string;
  role: 'work' | 'enqueue';
}

const input = z.object({});

/** Longer than a loaded machine stalls; far shorter than the minute that the tests wait. */
export const LEASE_TTL_MS = 15_000;

export const timedJobs = [
  defineJob({ name: 'timed', input, run: async () => 'done' }),
  defineJob({
    name: 'backoff',
    input,
    attempts: 2,
    backoff: { type: 'fixed', delayMs: 1_500, jitter: 0 },
    run: async (_input, ctx) => {
      if (ctx.attempt === 1) throw new Error('try again');
    },
  }),
  defineJob({
    name: 'retry-after',
    input,
    attempts: 2,
    run: async (_input, ctx) => {
      if (ctx.attempt === 1) throw new RetryAfterError('later', 1_500);
    },
  }),
  defineJob({
    name: 'held',
    input,
    // Only the first worker to have it holds it until it is killed.
    run: async (_input, ctx) => {
      if (ctx.fence === 1) await new Promise(() => {});
    },
  }),
];

if (import.meta.main) {
  const { role, ...options } = JSON.parse(process.argv[2] as string) as TimedProcessOptions;
  const fleet = createFleet({
    ...options,
    jobs: timedJobs,
    databasePoolSize: 3,
    leaseTtlMs: LEASE_TTL_MS,
    reconcileMs: 300,
  });
  if (role === 'work') await fleet.work();
  process.on('message', ({ name, delayMs }: { name: string; delayMs: number }) => {
    void fleet.enqueue(name, {}, { delayMs }).then(({ id }) => process.send?.({ type: 'enqueued', id }));
  });
  process.send?.({ type: 'ready', now: Date.now() });
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
}
