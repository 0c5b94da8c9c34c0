/** A process of the fairness bench: runs jobs of two tenants, or adds them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';
import { z } from 'zod';
import { createFleet, defineJob } from '../../src/index.ts';
import { serve } from '../lib/child.ts';
import { now } from '../lib/clock.ts';
import { connectRedis, type Place } from '../lib/databases.ts';
import { pace } from '../lib/pace.ts';

export type SubjectName = 'oncefleet' | 'in-order' | 'bullmq';

interface Order {
  subject: SubjectName;
  place: Place;
  /** How long each job runs, in milliseconds. */
  jobMs: number;
}

const NAME = 'work';
const input = z.object({ ms: z.number(), probe: z.number() });
/** Enqueued at once; they share statements. */
const CHUNK = 1_000;

/** When probes started, by their number, on the clock that all processes share. */
const startedAt = new Map<number, number>();
let others = 0;

let add: ((tenant: string, job: z.infer<typeof input>) => Promise<unknown>) | undefined;

async function handle({ ms, probe }: z.infer<typeof input>): Promise<void> {
  if (probe >= 0) startedAt.set(probe, now());
  else others++;
  // Jobs of one length would start and end together, and so would the slots.
  await sleep(ms * (0.5 + Math.random()));
}

function openFleet({ subject, place }: Order) {
  const { databaseUrl, redisUrl, prefix } = place;
  const job = defineJob({ name: NAME, input, run: (given) => handle(given) });
  return createFleet({ databaseUrl, redisUrl, prefix, jobs: [job], fairTenants: subject === 'oncefleet' });
}

export const commands = {
  async openClient(order: Order): Promise<void> {
    if (order.subject === 'bullmq') {
      const { redisUrl, prefix } = order.place;
      const queue = new Queue(NAME, { connection: connectRedis(redisUrl), prefix });
      add = (_, job) => queue.add(NAME, job);
    } else {
      const fleet = openFleet(order);
      await fleet.health();
      add = (tenant, job) => fleet.enqueue(NAME, job, { tenant });
    }
  },

  async work(order: Order & { slots: number }): Promise<void> {
    const { subject, place, slots } = order;
    if (subject === 'bullmq') {
      const connection = connectRedis(place.redisUrl);
      const worker = new Worker(NAME, (job) => handle(job.data), {
        connection,
        prefix: place.prefix,
        concurrency: slots,
      });
      await worker.waitUntilReady();
    } else await openFleet(order).work({ concurrency: slots });
  },

  /** Adds so many jobs of tenant A. */
  async fill({ count, jobMs }: { count: number; jobMs: number }): Promise<void> {
    for (let done = 0; done < count; done += CHUNK)
      await Promise.all(Array.from({ length: CHUNK }, () => add?.('a', { ms: jobMs, probe: -1 })));
  },

  /** Adds jobs of tenant B at a rate. @returns when each was added */
  async probe(order: { perSecond: number; total: number; jobMs: number }): Promise<number[]> {
    const addedAt: number[] = [];
    const adding: Promise<unknown>[] = [];
    await pace(order.perSecond, order.total, (probe) => {
      addedAt[probe] = now();
      adding.push(add?.('b', { ms: order.jobMs, probe }) ?? Promise.resolve());
    });
    await Promise.all(adding);
    return addedAt;
  },

  report: (_: null): { startedAt: Map<number, number>; others: number } => ({ startedAt, others }),
};

serve(commands);
