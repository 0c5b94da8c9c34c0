/** The sets in which BullMQ keeps the jobs of a queue. */
import type { Job, Queue } from 'bullmq';
import { type OperatorHost, PAGE } from './host.ts';

/** Sets of a queue by BullMQ's names for them. `paused` is where older versions of BullMQ keep what waits. */
export type QueueSet = 'wait' | 'paused' | 'prioritized' | 'delayed' | 'waiting-children' | 'completed' | 'failed';

const LISTS: ReadonlySet<QueueSet> = new Set(['wait', 'paused']);

/**
 * Goes through a set, as long as it is when this starts, in pages.
 *
 * @param act gives back how many jobs of the page are still in the set
 */
export async function eachOf(
  { runtime }: OperatorHost,
  queue: Queue,
  set: QueueSet,
  act: (jobs: readonly Job[]) => Promise<number>,
): Promise<void> {
  const { redis } = runtime;
  const key = queue.toKey(set);
  let stay = 0;
  for (let left = LISTS.has(set) ? await redis.llen(key) : await redis.zcard(key); left > 0; ) {
    const count = Math.min(PAGE, left);
    // The oldest of a list are at its end, and what is added meanwhile is not.
    const ids = LISTS.has(set)
      ? await redis.lrange(key, -stay - count, -stay - 1)
      : await redis.zrange(key, String(stay), String(stay + count - 1));
    if (ids.length === 0) return;
    left -= ids.length;
    const jobs = (await Promise.all(ids.map((id) => queue.getJob(id)))).filter((job) => job !== undefined);
    stay += ids.length - jobs.length + (jobs.length === 0 ? 0 : await act(jobs));
  }
}
