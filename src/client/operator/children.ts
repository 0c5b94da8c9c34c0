/** The children that jobs of BullMQ flows wait for. */
import { Job, type Queue } from 'bullmq';
import { deliveriesOf, findDelivery, rowsToEnd } from './deliveries.ts';
import { endRows } from './end.ts';
import { type OperatorHost, PAGE } from './host.ts';
import { refused, translated } from './refusals.ts';

/** Children of a flow that are cancelled at once; more are refused. */
const MAX_CHILDREN = 10_000;

export async function removeUnprocessedChildren(host: OperatorHost, queue: Queue, id: string): Promise<void> {
  const { job } = await findDelivery(host, queue, id);
  await endChildren(host, queue, [job]);
  await translated(job.removeUnprocessedChildren());
}

/** Cancels the children that jobs of flows wait for, which BullMQ removes with them, and theirs. */
export async function endChildren(host: OperatorHost, queue: Queue, parents: readonly Job[]): Promise<void> {
  const found = await childrenOf(host, queue, parents);
  const byQueue = Map.groupBy(found, (key) => key.slice(0, key.lastIndexOf(':')));
  for (const [at, keys] of byQueue) {
    // A name has no colon, a prefix may.
    const split = at.lastIndexOf(':');
    const children = host.runtime.otherQueues.at(at.slice(0, split), at.slice(split + 1));
    for (let i = 0; i < keys.length; i += PAGE) {
      const ids = keys.slice(i, i + PAGE).map((key) => key.slice(at.length + 1));
      const jobs = (await Promise.all(ids.map((id) => Job.fromId(children, id)))).filter((job) => job !== undefined);
      await endRows(host, rowsToEnd(await deliveriesOf(host, children, jobs)));
    }
  }
}

/** Redis keys of the unfinished children of these jobs, and of theirs. */
async function childrenOf({ runtime }: OperatorHost, queue: Queue, parents: readonly Job[]): Promise<Set<string>> {
  const { redis } = runtime;
  const found = new Set<string>();
  let level = parents.map((job) => queue.toKey(job.id as string));
  while (level.length > 0) {
    const next: string[] = [];
    for (let i = 0; i < level.length; i += PAGE) {
      const children = await Promise.all(level.slice(i, i + PAGE).map((key) => redis.smembers(`${key}:dependencies`)));
      for (const key of children.flat()) if (!found.has(key)) next.push(key);
      for (const key of next) found.add(key);
      if (found.size > MAX_CHILDREN)
        throw refused(`The flow has more than ${MAX_CHILDREN} children that wait: remove some of them first`);
    }
    level = next;
  }
  return found;
}
