import { Worker } from 'bullmq';
import { connectRedis } from '../../lib/databases.ts';
import { createBullProducer, Gate, QUEUE } from './bullmq-queue.ts';
import type { Subject } from './subject.ts';

/** BullMQ as it comes: no key, no Postgres. What everything else is measured against. */
export const bullmq: Subject = {
  name: 'bullmq',
  title: 'BullMQ alone',
  measures: ['adding', 'latency'],
  supports: () => true,
  prepare: async () => {},
  produce: async (place) => createBullProducer(place),
  async consume(place, { concurrency, onJob }) {
    const connection = connectRedis(place.redisUrl);
    const gate = new Gate(place);
    await gate.shut();
    const worker = new Worker(QUEUE, async (job) => onJob(job.data), { connection, prefix: place.prefix, concurrency });
    await worker.waitUntilReady();
    return {
      start: () => gate.open(),
      pause: () => gate.shut(),
      async close() {
        await worker.close();
        await gate.close();
        connection.disconnect();
      },
    };
  },
};
