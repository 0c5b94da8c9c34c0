/** What the subjects on BullMQ share. */
import { Queue, QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import { connectRedis, type Place } from '../../lib/databases.ts';
import { type JobInput, keyOf, type Producer, range } from './subject.ts';

export const QUEUE = 'noop';

const CHUNK = 1_000;

/** A producer on BullMQ alone: what raw BullMQ and the naive wrapper are given. */
export function createBullProducer(place: Place): Producer & { queue: Queue } {
  const connection = connectRedis(place.redisUrl);
  const queue = new Queue(QUEUE, { connection, prefix: place.prefix });
  let events: { queue: QueueEvents; connection: Redis } | undefined;
  const addBulk = async (first: number, count: number) => {
    await queue.addBulk(range(first, count).map((n) => ({ name: QUEUE, data: dataOf(n) })));
  };
  return {
    queue,
    async fill(first, count) {
      for (let done = 0; done < count; done += CHUNK) await addBulk(first + done, Math.min(CHUNK, count - done));
    },
    countRemaining: () => countUnfinished(queue),
    async add(n) {
      await queue.add(QUEUE, dataOf(n));
    },
    addBulk,
    async addAndWait(n) {
      if (events === undefined) {
        const own = connectRedis(place.redisUrl);
        events = { queue: new QueueEvents(QUEUE, { connection: own, prefix: place.prefix }), connection: own };
        // One listener a job that is waited for.
        events.queue.setMaxListeners(0);
        await events.queue.waitUntilReady();
      }
      const job = await queue.add(QUEUE, dataOf(n));
      await job.waitUntilFinished(events.queue);
    },
    async close() {
      await events?.queue.close();
      events?.connection.disconnect();
      await queue.close();
      connection.disconnect();
    },
  };
}

/** Holds a queue back while jobs are added, so that working them off is measured alone. */
export class Gate {
  readonly #connection: Redis;
  readonly #queue: Queue;

  constructor(place: Place) {
    this.#connection = connectRedis(place.redisUrl);
    this.#queue = new Queue(QUEUE, { connection: this.#connection, prefix: place.prefix });
  }

  open(): Promise<void> {
    return this.#queue.resume();
  }

  shut(): Promise<void> {
    return this.#queue.pause();
  }

  async close(): Promise<void> {
    await this.#queue.close();
    this.#connection.disconnect();
  }
}

export async function countUnfinished(queue: Queue): Promise<number> {
  const counts = await queue.getJobCounts('wait', 'active', 'prioritized', 'delayed');
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}

function dataOf(n: number): JobInput & { key: string } {
  return { n, key: keyOf(n) };
}
