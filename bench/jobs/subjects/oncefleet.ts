import { Queue } from 'bullmq';
import { z } from 'zod';
import { createFleet, defineJob, type Fleet } from '../../../src/index.ts';
import { connectRedis, type Place } from '../../lib/databases.ts';
import { prepareOncefleet } from '../../lib/oncefleet.ts';
import { countUnfinished, Gate, QUEUE } from './bullmq-queue.ts';
import { type JobInput, keyOf, range, type Subject } from './subject.ts';

const CHUNK = 1_000;

/** A fleet with its defaults. */
export const oncefleet: Subject = {
  name: 'oncefleet',
  title: 'Oncefleet',
  measures: ['adding', 'latency'],
  supports: () => true,
  prepare: prepareOncefleet,
  async produce(place) {
    const fleet = createBenchFleet(place, () => {});
    const connection = connectRedis(place.redisUrl);
    const queue = new Queue(QUEUE, { connection, prefix: place.prefix });
    const enqueue = (n: number) => fleet.enqueue(QUEUE, { n }, { key: keyOf(n) });
    const ids = new Map<number, string>();
    // As callers do that enqueue one by one: many at once share statements and round trips by themselves. `bulk` measures enqueueMany.
    const addBulk = async (first: number, count: number) => {
      const numbers = range(first, count);
      const handles = await Promise.all(numbers.map(enqueue));
      for (const [i, n] of numbers.entries()) ids.set(n, (handles[i] as { id: string }).id);
    };
    await fleet.health();
    return {
      async fill(first, count) {
        for (let done = 0; done < count; done += CHUNK) await addBulk(first + done, Math.min(CHUNK, count - done));
      },
      countRemaining: () => countUnfinished(queue),
      async add(n) {
        await enqueue(n);
      },
      addBulk,
      async addAndWait(n) {
        const handle = await enqueue(n);
        await handle.result();
      },
      async redeliver(how, first, count) {
        const data = (n: number) =>
          how === 'delivery' ? { oncefleet: 1, jobId: ids.get(n), key: keyOf(n) } : { n, idempotencyKey: keyOf(n) };
        for (let done = 0; done < count; done += CHUNK) {
          await queue.addBulk(
            range(first + done, Math.min(CHUNK, count - done)).map((n) => ({ name: QUEUE, data: data(n) })),
          );
        }
      },
      async close() {
        await queue.close();
        connection.disconnect();
        await fleet.close();
      },
    };
  },
  async consume(place, { concurrency, onJob }) {
    const gate = new Gate(place);
    await gate.shut();
    const fleet = createBenchFleet(place, onJob);
    await fleet.work({ concurrency });
    return {
      start: () => gate.open(),
      pause: () => gate.shut(),
      async close() {
        await gate.close();
        await fleet.close();
      },
    };
  },
};

function createBenchFleet({ databaseUrl, redisUrl, prefix }: Place, onJob: (input: JobInput) => void): Fleet {
  const noop = defineJob({
    name: QUEUE,
    input: z.object({ n: z.number() }),
    run: (input) => onJob(input),
  });
  return createFleet({ databaseUrl, redisUrl, prefix, jobs: [noop] });
}
